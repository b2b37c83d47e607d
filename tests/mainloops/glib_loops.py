"""Loops in one thread with the real GLib, as guests of a GLib.MainLoop and as hosts of its sources."""

from __future__ import annotations

import functools

from gi.repository import GLib

import aioqemu_loop
from aioqemu_loop import glib

# use_g_source()'s classic rule from io_uring and from poll, its other rule, and the classic one with one fd to poll.
GUESTS = ("guest-io_uring", "guest-poll", "guest-kept-io_uring", "guest-set-epoll")
HOSTS = ("host-io_uring", "host-epoll", "host-poll")


class GuestLoop(aioqemu_loop.Loop):
    """run_forever() is GLib.MainLoop.run() with this loop attached, until stop() was called."""

    def run_forever(self) -> None:
        self._check_closed()
        self._check_running()
        main_loop = GLib.MainLoop()
        stop_at_once = self._stopping
        with glib.attach(self, on_stop=main_loop.quit):
            if stop_at_once:
                self.stop()
            main_loop.run()


def backend_of(kind: str) -> str:
    """The monitor that a loop of this kind begins with."""
    return "poll" if kind == "guest-set-epoll" else kind.rpartition("-")[2]


def prepare_guest(kind: str, loop: aioqemu_loop.Loop) -> None:
    """What this kind of guest has done before attach(), which does the rest."""
    if kind == "guest-kept-io_uring":
        loop.use_g_source(keep_io_uring=True)
    elif kind == "guest-set-epoll":
        loop.use_g_source()
        loop.context.set_fdmon("epoll")


def new_glib_loop(kind: str) -> aioqemu_loop.Loop:
    """`kind`: one of GUESTS or HOSTS."""
    if kind in HOSTS:
        return glib.new_event_loop(fdmon=backend_of(kind))
    loop = GuestLoop(backend_of(kind))
    prepare_guest(kind, loop)
    return loop


FACTORIES = {kind: functools.partial(new_glib_loop, kind) for kind in (*GUESTS, *HOSTS)}
