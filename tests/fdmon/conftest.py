"""The contract's tests run on every backend, the one in Python included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

import aioqemu_loop

from ..conftest import need_fdmon
from ..context.helpers import turns
from ..mainloops.guest_context import GuestContext
from .python_fdmon import PythonFDMon

EVERY = ("io_uring", "epoll", "poll", "liburing", "python")
# The same contract holds where an outside main loop sleeps: for modules that say OUTSIDE_TOO.
OUTSIDE = ("outside-io_uring", "outside-epoll", "outside-poll", "outside-liburing")


def make_spec(name: str) -> str | Callable[[], aioqemu_loop.FDMon]:
    """What to pass as fdmon= for a backend of EVERY; skips or fails (CI) where it is missing here."""
    if name == "python":
        return PythonFDMon
    need_fdmon(name)
    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driven" in metafunc.fixturenames:
        outside = OUTSIDE if getattr(metafunc.module, "OUTSIDE_TOO", False) else ()
        metafunc.parametrize("driven", EVERY + outside, indirect=True)


@pytest.fixture
def driven(request: pytest.FixtureRequest) -> str:
    """One of EVERY or OUTSIDE."""
    make_spec(request.param.removeprefix("outside-"))
    return str(request.param)


@pytest.fixture
def fdmon(driven: str) -> str:
    """The backend's name."""
    return driven.removeprefix("outside-")


@pytest.fixture
def context(driven: str, fdmon: str, no_leaks: None) -> Iterator[aioqemu_loop.AioContext]:
    context = aioqemu_loop.AioContext(make_spec(fdmon)) if driven == fdmon else GuestContext(fdmon)
    yield context
    context.close()


class Watch:
    """A reader, writer or both on an fd that note their calls; by default the reader reads."""

    def __init__(self, context, fd, *, read=True, write=False, drain=True):
        self.context = context
        self.fd = fd if isinstance(fd, int) else fd.fileno()
        self.drain = drain
        self.calls = []
        self.data = b""
        self.set(read, write)

    def set(self, read, write):
        self.context.set_fd_handler(self.fd, self.readable if read else None, self.writable if write else None)

    def readable(self):
        self.calls.append("r")
        if self.drain:
            self.data += os.read(self.fd, 65536)

    def writable(self):
        self.calls.append("w")

    def after(self, count=5):
        """The calls that `count` turns bring."""
        self.calls.clear()
        turns(self.context, count)
        return "".join(self.calls)

    def remove(self):
        self.context.set_fd_handler(self.fd)


@pytest.fixture
def watch(context):
    """Makes Watches; what is left of them is removed in the end."""
    made = []

    def make(fd, **options):
        made.append(Watch(context, fd, **options))
        return made[-1]

    yield make
    for item in made:
        if not context.closed:
            item.remove()
