"""What a test leaves behind: file descriptors, tasks, threads.

Compared are the moments before its set-up and after its tear-down. What appears while a fixture of a wider scope is
set up is that fixture's, and so is what a fixture opens that gives a loop. Tasks are looked at before their loop is
closed, when all fixtures that use it are through.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import socket
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

# For threads and tasks that are about to end.
PATIENCE = 1.0  # seconds
TURNS = 3
# What a loop of a wider scope may open for itself at any time.
OF_LOOPS = ("anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[io_uring]", "anon_inode:[pidfd]")


class Leaks:
    """`by_default`: whether tests without the marker aioqemu_leaks are looked at."""

    def __init__(self, by_default: bool) -> None:
        self._by_default = by_default
        self._watched = False  # whether the test that runs is looked at
        self._known: set[object] = set()  # what was there before, or belongs to wider scopes
        self._loops: list[asyncio.AbstractEventLoop] = []  # those that fixtures hold
        # Those of fixtures of wider scopes: they start their threads when there is work, so maybe inside a test.
        self._pools: weakref.WeakSet[ThreadPoolExecutor] = weakref.WeakSet()
        self._left: dict[object, str] = {}  # task -> what it was when it was found

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        marker = item.get_closest_marker("aioqemu_leaks")
        self._watched = bool((marker.args or (True,))[0]) if marker is not None else self._by_default
        if self._watched:
            self._left.clear()
            self._known = self._everything()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, Any, Any]:
        if not self._watched:
            return (yield)
        before = self._everything()
        loop = None
        try:
            value = yield
            loop = _loop_of(value)
            if fixturedef.scope != "function" and isinstance(value, ThreadPoolExecutor):
                self._pools.add(value)
        finally:
            if loop is not None or fixturedef.scope != "function":
                self._known |= self._everything() - before
        if loop is not None and loop not in self._loops:
            self._loops.append(loop)
            # Runs before the loop is closed, and after those that use it.
            fixturedef.addfinalizer(functools.partial(self._last_look, loop))
        return value

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """anyio closes its loop with the test function: its tasks are looked at when that is over."""
        if not self._watched or "anyio_backend" not in pyfuncitem.funcargs:
            return (yield)
        function = pyfuncitem.obj
        if not inspect.iscoroutinefunction(function):
            return (yield)
        pyfuncitem.obj = self._watching(function)
        try:
            return (yield)
        finally:
            pyfuncitem.obj = function

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        result = yield
        if self._watched:
            for loop in self._loops:
                self._look(loop)
            self._watched = False
            left = [f"task left behind: {text}" for text in self._left.values()]
            left += self._threads_left()
            left += self._fds_left()
            self._left.clear()
            self._known = set()
            if left:
                pytest.fail("\n".join(left), pytrace=False)
        return result

    def _everything(self) -> set[object]:
        tasks = [task for loop in self._loops for task in _pending(loop)]
        return {*_open_fds(), *threading.enumerate(), *tasks}

    # -- tasks --

    def _last_look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loops.remove(loop)
        if self._watched:
            self._look(loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Notes the tasks of a loop that does not run now."""
        for _ in range(TURNS):
            if loop.is_closed() or loop.is_running() or not (_pending(loop) - self._known):
                return
            loop.run_until_complete(asyncio.sleep(0))
        self._note(_pending(loop) - self._known)

    def _note(self, tasks: Iterable[object]) -> None:
        self._left.update({task: repr(task) for task in tasks})

    def _watching(self, function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        @functools.wraps(function)
        async def watched(*args: Any, **kwargs: Any) -> Any:
            loop = asyncio._get_running_loop()
            if loop is None:  # Trio
                return await function(*args, **kwargs)
            before = asyncio.all_tasks()
            result = await function(*args, **kwargs)
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self._note(asyncio.all_tasks() - before)
            return result

        return watched

    # -- threads and file descriptors --

    def _threads_left(self) -> list[str]:
        pools = [*self._pools, *(getattr(loop, "_default_executor", None) for loop in self._loops)]
        of_pools = {thread for pool in pools for thread in getattr(pool, "_threads", ())}
        result = []
        for thread in threading.enumerate():
            if thread in self._known or thread in of_pools:
                continue
            thread.join(PATIENCE)
            if thread.is_alive():
                result.append(f"thread left behind: {thread!r}")
        return result

    def _fds_left(self) -> list[str]:
        def left() -> set[str]:
            found = {fd for fd in _open_fds() if fd not in self._known}
            of_signals = {number for loop in self._loops for number in _signal_fds(loop)}
            return {
                fd for fd in found if not ((self._loops and fd.endswith(OF_LOOPS)) or int(fd.split()[0]) in of_signals)
            }

        if left():
            gc.collect()
        return [f"file descriptor left behind: {_described(fd)}" for fd in sorted(left())]


def _loop_of(value: object) -> asyncio.AbstractEventLoop | None:
    """A loop that a fixture gives, or that of an asyncio.Runner."""
    if isinstance(value, asyncio.AbstractEventLoop):
        return value
    if type(value).__name__ == "Runner" and hasattr(value, "get_loop"):
        loop: asyncio.AbstractEventLoop = value.get_loop()
        return loop
    return None


def _signal_fds(loop: asyncio.AbstractEventLoop) -> tuple[int, ...]:
    """The pipe that our loop opens when it runs for the first time."""
    signals = getattr(loop, "_signals", None)
    return () if signals is None else (signals._read_fd, signals._write_fd)


def _pending(loop: asyncio.AbstractEventLoop) -> set[object]:
    return set() if loop.is_closed() else set(asyncio.all_tasks(loop))


def _open_fds() -> Iterable[str]:
    """ "number -> target" of each."""
    for number in os.listdir("/proc/self/fd"):
        try:
            yield f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}"
        except FileNotFoundError:  # that of the listing
            continue


def _described(fd: str) -> str:
    """With the addresses, if it is a socket."""
    try:
        with socket.socket(fileno=os.dup(int(fd.split()[0]))) as sock:
            return f"{fd} ({sock.family.name}, {sock.getsockname()!r})"
    except OSError:
        return fd
