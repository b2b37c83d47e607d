"""Fixtures that every test shares: the backends, loops on them, and a check that nothing is leaked."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioqemu_loop

# AIOQEMU_TEST_FDMON: what the suite runs on instead, for instance "liburing", which only some folders run on by
# default.
BACKENDS = tuple(os.environ.get("AIOQEMU_TEST_FDMON", "io_uring,epoll,poll").split(","))
# Seconds until a wait is a failure. Sanitizers need longer.
PATIENCE = float(os.environ.get("AIOQEMU_TEST_PATIENCE", 15.0))


def pytest_configure() -> None:
    """A shell that starts the tests in the background has SIGINT ignored, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Most tests collect garbage to see what is left. What there is already (imported, found and reported by pytest)
    would make each of these take several times as long; it is put aside."""
    if not item.config.pluginmanager.has_plugin("tests.leaks.hunt"):  # which does so for all runs of a test
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


def children() -> set[int]:
    """Child processes, those that have ended and were not reaped as well. multiprocessing keeps some for good."""
    result = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                result.add(int(stat.parent.name))
    return result


@pytest.fixture
def no_children() -> Iterator[None]:
    """Fails a test that leaves a child, running or unreaped."""
    before = children()
    yield
    gc.collect()
    subprocess._cleanup()  # type: ignore[attr-defined]
    assert children() <= before


def preloaded(library: Path) -> str:
    """LD_PRELOAD for a child process: this library, then what is preloaded here (a sanitizer)."""
    return " ".join([str(library), *os.environ.get("LD_PRELOAD", "").split()])


def need_fdmon(name: str) -> None:
    """A backend that is missing here is a failure in CI and a skip elsewhere. A skip for "liburing", whose package
    does not run on every CPU."""
    reason = aioqemu_loop.fdmons()[name]
    if reason is not None:
        missing = pytest.fail if os.environ.get("CI") and name != "liburing" else pytest.skip
        missing(f"{name} is not usable here: {reason}")


@pytest.fixture(params=BACKENDS)
def fdmon(request: pytest.FixtureRequest) -> str:
    """The name of each backend."""
    need_fdmon(request.param)
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
def pair(no_leaks: None) -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes connected, non-blocking socket pairs, and closes them."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        sockets = socket.socketpair()
        made.extend(sockets)
        for sock in sockets:
            sock.setblocking(False)
        return sockets

    yield make
    for sock in made:
        sock.close()


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


@pytest.fixture
def ring_loop(no_leaks: None) -> Iterator[aioqemu_loop.Loop]:
    """A loop on the native io_uring."""
    need_fdmon("io_uring")
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture(params=[*BACKENDS, "reference"])
def any_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops on each backend, and the stdlib's: where `reference` differs, one of us is wrong."""
    if request.param == "reference":
        return asyncio.SelectorEventLoop
    need_fdmon(request.param)
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
def run(any_loop: asyncio.AbstractEventLoop) -> Callable[..., Any]:
    """run(coroutine) on the loop under test."""
    return lambda coroutine: any_loop.run_until_complete(asyncio.wait_for(coroutine, 3 * PATIENCE))


@pytest.fixture
def broken_pipes_are_told(errors: list[dict[str, Any]]) -> Iterator[None]:
    """Up to 3.10 asyncio's streams tell the exception handler of a child that did not read its input."""
    yield
    if sys.version_info < (3, 11):
        gc.collect()
        errors[:] = [details for details in errors if not isinstance(details["exception"], BrokenPipeError)]


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


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """(server context, client context) for "localhost"."""
    pytest.importorskip("cryptography")
    from tools.certificates import localhost_tls

    return localhost_tls(tmp_path_factory.mktemp("tls"))
