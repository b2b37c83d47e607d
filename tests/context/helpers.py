"""What the tests of the lower floors share: waiting for conditions, never for time to pass."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aioqemu_loop import AioContext


def run_until(context: AioContext, condition: Callable[[], object], seconds: float = 10) -> None:
    """Blocking turns until `condition()` holds; fails after `seconds`."""
    deadline = time.monotonic_ns() + int(seconds * 1e9)
    limit = context.timer_new(lambda: None)  # so that a turn in which nothing happens comes to an end
    limit.mod_ns(deadline)
    try:
        while not condition():
            assert time.monotonic_ns() < deadline, "the condition did not come true"
            context.poll()
    finally:
        limit.delete()


def turns(context: AioContext, count: int = 5) -> None:
    """Some turns that do not sleep, for things that must not happen."""
    for _ in range(count):
        context.poll(False)


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    """For what another thread or process does: look until it is so; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        os.sched_yield()


@contextlib.contextmanager
def rescue(context: AioContext, seconds: float = 2) -> Iterator[threading.Event]:
    """Ends a poll() that would sleep for ever; the event that it yields is set if that was needed."""
    over = threading.Event()
    needed = threading.Event()

    def watch() -> None:
        if not over.wait(seconds):
            needed.set()
            context.bh_schedule_oneshot(lambda: None)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield needed
    finally:
        over.set()
        thread.join()


def sleeps(context: AioContext, seconds: float = 0.2) -> bool:
    """Whether the context sleeps `seconds` long. A few wake-ups without reason are allowed: what the
    kernel does some ms after a ring was closed interrupts the system call of whatever thread it runs in."""
    empty = 0
    with rescue(context, seconds) as over:
        while not over.is_set():
            empty += 1
            if context.poll() and not over.is_set():
                return False
    return empty < 20  # one that spins comes to thousands


def in_thread(function: Callable[[], object], seconds: float = 10) -> object:
    """Run it in another thread to its end; gives back its result or raises its exception here."""
    outcome: list[object] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the thread hangs"
    if failure:
        raise failure[0]
    return outcome[0]


def in_child(function: Callable[[], object]) -> str:
    """Run it in a forked child; gives back str() of its result, or "Name: text" of its exception."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test runner may have threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                text = str(function())
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
            os.write(writer, text.encode())
            status = 0
        finally:
            os._exit(status)  # whatever happens, the tests go on in the parent only
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child died: {status}"
    return text


def thread_sleeps(native_id: int) -> bool:
    """Whether a thread of this process sleeps in a system call, as the kernel sees it."""
    stat = Path(f"/proc/self/task/{native_id}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def raising(exc: BaseException) -> Callable[[], None]:
    """A callback that raises `exc`."""

    def callback() -> None:
        raise exc

    return callback


def rebind(listener: socket.socket) -> None:
    """Close a listening socket and bind its port at once: EADDRINUSE if the kernel still has the old one."""
    address = listener.getsockname()
    listener.close()
    socket.create_server(address).close()


class AtInstruction:
    """Does something once, at the n-th instruction of the code of some files, where a signal handler may come."""

    def __init__(self, number: int, do: Callable[[], object], files: tuple[str, ...]) -> None:
        self.number = number
        self.do = do
        self.files = files
        self.count = 0

    def __enter__(self) -> None:
        sys._getframe().f_trace_opcodes = True  # 3.12 looks for that when it is told to trace
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.count += 1
            if self.count == self.number:
                self.do()
        return self._trace


class Interrupted:
    """KeyboardInterrupt once, at the n-th of these profile events in the code of some files, as from a signal handler;
    the block then ends."""

    def __init__(self, number: int, files: tuple[str, ...], events: tuple[str, ...] = ("return", "c_return")) -> None:
        self.number = number
        self.files = files
        self.events = events
        self.count = 0

    def __enter__(self) -> Interrupted:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        sys.setprofile(None)
        return kind is KeyboardInterrupt

    def _profile(self, frame: Any, event: str, arg: object) -> None:
        if frame.f_code.co_filename in self.files and event in self.events:
            self.count += 1
            if self.count == self.number:
                raise KeyboardInterrupt

    @property
    def beyond(self) -> bool:
        return self.count < self.number
