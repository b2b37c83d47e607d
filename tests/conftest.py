"""Fixtures that every test shares: the backends, loops on them, and a check that nothing is leaked."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import warnings
from collections.abc import Callable, Iterator

import pytest

import aioqemu_loop

BACKENDS = ("io_uring", "epoll", "poll")


def pytest_collection_finish() -> None:
    """Most tests collect garbage to see what is left; what is imported and collected by now need not be looked at."""
    gc.collect()
    gc.freeze()


def open_fds() -> set[str]:
    """What is open in this process: "number -> target". The listing's own fd is not in it."""
    result = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            result.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return result


@pytest.fixture(params=BACKENDS)
def fdmon(request: pytest.FixtureRequest) -> str:
    """The name of each native backend. One that is missing here is a failure in CI and a skip elsewhere."""
    reason = aioqemu_loop.fdmons()[request.param]
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{request.param} is not usable here: {reason}")
    return str(request.param)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails a test that leaves file descriptors behind."""
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    left = open_fds() - before
    assert not left, f"file descriptors left open: {sorted(left)}"


@pytest.fixture
def context(fdmon: str, no_leaks: None) -> Iterator[aioqemu_loop.AioContext]:
    """An AioContext without asyncio, on each backend."""
    context = aioqemu_loop.AioContext(fdmon)
    yield context
    context.close()


@pytest.fixture
def loop_factory(fdmon: str) -> Callable[[], aioqemu_loop.Loop]:
    """Makes loops, on each backend."""
    return functools.partial(aioqemu_loop.new_event_loop, fdmon=fdmon)


@pytest.fixture
def loop(loop_factory: Callable[[], aioqemu_loop.Loop], no_leaks: None) -> Iterator[aioqemu_loop.Loop]:
    """A loop on each backend; what went to its exception handler and was not asked for fails the test."""
    unexpected: list[dict[str, object]] = []
    loop = loop_factory()
    loop.set_exception_handler(lambda _, details: unexpected.append(details))
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop(None)
    gc.collect()
    assert not unexpected, unexpected
