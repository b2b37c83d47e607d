"""Loops beside the real GLib: as guests, as hosts, and a GLib.MainLoop that does not run for ever."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aioqemu_loop

from ..conftest import PATIENCE

# tests.mainloops.glib_loops has the same names; it needs PyGObject, and this file is read where that is missing too.
GUESTS = ("guest-io_uring", "guest-poll", "guest-kept-io_uring", "guest-set-epoll")
HOSTS = ("host-io_uring", "host-epoll", "host-poll")

# PyGObject's MainLoop.run() asks asyncio's policy for a loop of its own, which 3.14 deprecates.
POLICY_WARNINGS = (
    r"ignore:'asyncio\.AbstractEventLoopPolicy' is deprecated:DeprecationWarning",
    r"ignore:'asyncio\.get_event_loop_policy' is deprecated:DeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/glib/" in item.nodeid:
            for text in POLICY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(scope="session")
def glib_is_warm() -> None:
    """What GLib opens once and keeps is there before anything is counted; libffi does so with the first callback."""
    from gi.repository import GLib

    ran: list[None] = []
    GLib.idle_add(lambda: ran.append(None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        while not ran:
            GLib.MainContext.default().iteration(False)


@pytest.fixture
def no_leaks(glib_is_warm: None, no_leaks: None) -> None:
    """Fails a test that leaves file descriptors behind."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Exceptions that GLib's callbacks could only have shown. A test that expects some empties it."""
    exceptions: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, exc, traceback: exceptions.append(exc))
    yield exceptions
    left, exceptions[:] = list(exceptions), []
    assert not left, left


@pytest.fixture
def errors() -> list[dict[str, Any]]:
    """What loops told their exception handlers. A test that expects something empties it."""
    return []


@pytest.fixture
def new_loop(
    errors: list[dict[str, Any]], shown: list[BaseException], no_leaks: None
) -> Iterator[Callable[[str], aioqemu_loop.Loop]]:
    """new_loop(kind): a loop on a backend that is usable here, closed when the test is over."""
    from tests.mainloops import glib_loops

    loops: list[aioqemu_loop.Loop] = []

    def make(kind: str) -> aioqemu_loop.Loop:
        reason = aioqemu_loop.fdmons()[glib_loops.backend_of(kind)]
        if reason is not None:
            pytest.skip(f"{kind} is not usable here: {reason}")
        loop = glib_loops.new_glib_loop(kind)
        loop.set_exception_handler(lambda _, details: errors.append(details))
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
    loops.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop(None)
    gc.collect()
    left, errors[:] = list(errors), []
    assert not left, left


@pytest.fixture(params=[*GUESTS, *HOSTS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def any_loop(kind: str, new_loop: Callable[[str], aioqemu_loop.Loop]) -> aioqemu_loop.Loop:
    """A loop whose run_forever() runs GLib's sources too: each kind of guest and of host."""
    return new_loop(kind)


@pytest.fixture(params=GUESTS)
def guest_loop(request: pytest.FixtureRequest, new_loop: Callable[[str], aioqemu_loop.Loop]) -> aioqemu_loop.Loop:
    """A loop that the test attaches itself."""
    return new_loop(request.param)


@pytest.fixture(params=HOSTS)
def host_loop(request: pytest.FixtureRequest, new_loop: Callable[[str], aioqemu_loop.Loop]) -> aioqemu_loop.Loop:
    return new_loop(request.param)


@pytest.fixture
def run(any_loop: aioqemu_loop.Loop) -> Callable[..., Any]:
    """run(coroutine) on `any_loop`."""
    return lambda coroutine: any_loop.run_until_complete(asyncio.wait_for(coroutine, 2 * PATIENCE))


class Main:
    """A GLib.MainLoop that ends by itself when a test has hung."""

    def __init__(self, context: Any = None) -> None:
        from gi.repository import GLib

        self._glib = GLib
        self.loop = GLib.MainLoop(context)
        self.quit = self.loop.quit

    def run(self) -> None:
        """Until quit()."""
        late = []

        def too_late() -> bool:
            late.append(True)
            self.quit()
            return True

        source = self._glib.timeout_source_new(int(PATIENCE * 1000))
        source.set_priority(self._glib.PRIORITY_HIGH)
        source.set_callback(lambda *_: too_late())
        source.attach(self.loop.get_context())
        try:
            self.loop.run()
        finally:
            source.destroy()
        assert not late, "the GLib.MainLoop did not end"

    def run_until(self, done: Callable[[], bool]) -> None:
        """Until done() after some dispatch, which a source of the lowest priority sees."""
        watcher = self._glib.timeout_source_new(1)
        watcher.set_callback(lambda *_: not done() or self.quit() or True)
        watcher.attach(self.loop.get_context())
        try:
            self.run()
        finally:
            watcher.destroy()

    def run_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any) -> Any:
        """Until the coroutine has ended on `loop`, which is attached."""
        task = loop.create_task(coroutine)
        task.add_done_callback(lambda _: self.quit())
        self.run()
        return task.result()


@pytest.fixture
def main() -> Main:
    """Runs the default GLib.MainContext."""
    return Main()


@pytest.fixture
def new_main() -> type[Main]:
    """new_main(context): runs another GLib.MainContext."""
    return Main


@pytest.fixture
def in_thread() -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """in_thread(function) starts it; what it returns joins the thread, and returns or raises what the function did."""

    def start(function: Callable[[], Any]) -> Callable[[], Any]:
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as exc:
                outcome.append((None, exc))

        thread = threading.Thread(target=run)
        thread.start()

        def join() -> Any:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()
            result, exc = outcome[0]
            if exc is not None:
                raise exc
            return result

        return join

    return start
