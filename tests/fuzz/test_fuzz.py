"""A short, repeatable part of the fuzzing: `python -m tests.fuzz` is the long one."""

from __future__ import annotations

import importlib
import random
import sys

import pytest

from tests.fuzz.mutate import mutated

COUNTS = {"addresses": 3000, "arguments": 300, "parser": 3000, "tls": 30}
# Inputs that found something, before it was mended.
FOUND = {
    "arguments": ["654d52ee0ad79c8f70a6eddd867cfd72d6c4", "c28b4848aeab874d3eb070571f83"],
    "tls": ["2bdc08ff84f899cda60be1eed3", "b32c28334d29967eaa442f3d06e3465491"],
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_few(name: str, no_leaks: None, request: pytest.FixtureRequest) -> None:
    if name == "tls":
        pytest.importorskip("cryptography")
        if sys.version_info < (3, 11):
            pytest.skip("asyncio's TLS is another up to 3.10")
    target = importlib.import_module(f"tests.fuzz.{name}")
    source = random.Random(name)
    if hasattr(target, "end"):
        request.addfinalizer(target.end)
    for data in [*target.SEEDS, *map(bytes.fromhex, FOUND.get(name, []))]:
        target.target(data)
    for _ in range(COUNTS[name]):
        data = mutated(source, target.SEEDS)
        try:
            target.target(data)
        except BaseException as exc:
            raise AssertionError(f"input: {data.hex()}") from exc
