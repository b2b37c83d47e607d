"""Fixtures for the tests of the asyncio face: the same test on every backend and on the stdlib's own loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aioqemu_loop
from aioqemu_loop.context.fdmons import BACKENDS


@pytest.fixture(params=[*BACKENDS, "reference"])
def any_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops on each backend, and the stdlib's: where `reference` differs, one of us is wrong."""
    if request.param == "reference":
        return asyncio.SelectorEventLoop
    reason = aioqemu_loop.fdmons()[request.param]
    if reason is not None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{request.param} is not usable here: {reason}")
    return functools.partial(aioqemu_loop.new_event_loop, fdmon=request.param)


@pytest.fixture
def errors() -> list[dict[str, Any]]:
    """What the loop of `any_loop` told its exception handler. A test that expects something empties it."""
    return []


@pytest.fixture
def any_loop(
    any_factory: Callable[[], asyncio.AbstractEventLoop], errors: list[dict[str, Any]], no_leaks: None
) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop on each backend and the stdlib's."""
    loop = any_factory()
    loop.set_exception_handler(lambda _, details: errors.append(details))
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    asyncio.set_event_loop(None)
    gc.collect()
    assert not errors, errors


@pytest.fixture
def stdlib_is_wrong(any_loop):
    """stdlib_is_wrong(version, text): skip the stdlib's own loop where it fails the test itself."""

    def skip(version, text):
        if isinstance(any_loop, asyncio.SelectorEventLoop) and sys.version_info >= version:
            pytest.skip(text)

    return skip


@pytest.fixture
def turn() -> Callable[..., None]:
    """turn(loop, n): run the loop for n turns."""

    def run(loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
        for _ in range(count):
            loop.call_soon(loop.stop)
            loop.run_forever()

    return run
