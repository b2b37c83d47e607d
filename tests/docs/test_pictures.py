"""The pictures of docs/performance.md show what the page says."""

from __future__ import annotations

import pytest

from tools import performance_pictures


@pytest.mark.parametrize("name", performance_pictures.ALL)
def test_pictures_are_of_these_numbers(name: str) -> None:
    numbers, _, _ = performance_pictures.ALL[name]
    picture = (performance_pictures.PICTURES / f"{name}.svg").read_text()
    assert performance_pictures.digest(numbers()) in picture, "docs/performance.md has changed: make pictures"
