"""The fixture that tests are repeated by."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def aioqemu_fdmon(request: pytest.FixtureRequest) -> str:
    """The backend that this test's loop is on."""
    names: tuple[str, ...] = request.config.pluginmanager.get_plugin("aioqemu_backends").names  # type: ignore[union-attr]
    chosen: str = getattr(request, "param", names[0])
    return chosen
