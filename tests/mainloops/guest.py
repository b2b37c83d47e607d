"""Loops that an outside main loop drives whenever they run: what is true of a loop must be true of them."""

from __future__ import annotations

import math
import select
from typing import Any

import aioqemu_loop

# As backends' names: use_g_source()'s two rules, and epoll, whose set is one fd, under the classic one.
GUESTS = ("g_source", "g_source-io_uring", "g_source-epoll")


def drive(source: aioqemu_loop.GSource, limit_ns: int | None = None) -> bool:
    """One iteration of an outside main loop that sleeps in poll(2), `limit_ns` at most; whether it had something."""
    timeout = source.prepare()
    if limit_ns is not None:
        timeout = limit_ns if timeout is None else min(timeout, limit_ns)
    poller = select.poll()
    for fd, events in source.poll_fds():
        poller.register(fd, events)
    if not source.check(poller.poll(None if timeout is None else math.ceil(timeout / 1e6))):
        return False
    source.dispatch()
    return True


class GuestLoop(aioqemu_loop.Loop):
    """run_forever() is an outside main loop, which ends when stop() was called."""

    def run_forever(self) -> None:
        self._check_closed()
        self._check_running()
        stop_at_once = self._stopping
        with self.context.get_g_source() as source:
            if stop_at_once:  # one turn
                self.stop()
            while not source.stopped:
                drive(source)


def new_guest_loop(kind: str, **options: Any) -> GuestLoop:
    """`kind`: one of GUESTS."""
    rule, _, monitor = kind.partition("-")
    assert rule == "g_source"
    loop = GuestLoop(monitor or "auto", **options)
    loop.use_g_source(keep_io_uring=monitor in ("io_uring", "liburing"))
    if monitor == "epoll":
        loop.context.set_fdmon("epoll")
    return loop
