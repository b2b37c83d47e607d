"""A loop that serves GLib's sources."""

from __future__ import annotations

import functools
import sys
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from gi.repository import GLib

from aioqemu_loop.glib.guest import checked_main_context
from aioqemu_loop.glib.host import MainContextHost
from aioqemu_loop.glib.loop_source import LoopSource
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.loop.running import run_on

if TYPE_CHECKING:
    from aioqemu_loop.fdmon.base import FDMon

T = TypeVar("T")


class HostLoop(Loop):
    """A Loop whose run_forever() also iterates a GLib.MainContext (None: the default one). It is the running loop in
    GLib's callbacks too. Each run raises RuntimeError while another thread owns the main context.

    The monitor stays what it is (use_g_source(keep_io_uring=True)): this loop calls it regularly. Poll mode is off.
    """

    def __init__(
        self,
        fdmon: str | FDMon | Callable[[], FDMon] = "auto",
        poll_max_ns: int | None = None,
        main_context: Any = None,
    ) -> None:
        self.main_context = checked_main_context(main_context)
        super().__init__(fdmon, poll_max_ns)
        try:
            self.use_g_source(keep_io_uring=True)
        except BaseException:
            self.close()
            raise

    def run_forever(self) -> None:
        self._check_closed()
        self._check_running()
        if events._get_running_loop() is not None:
            raise RuntimeError("Cannot run the event loop while another loop is running")
        stop_soon = self._stopping
        ended = False

        def end() -> None:
            nonlocal ended
            ended = True

        host = MainContextHost(self.main_context)
        old_hooks = sys.get_asyncgen_hooks()
        try:
            guest = self.context.get_g_source()
            source = LoopSource(guest, self.main_context, GLib.PRIORITY_DEFAULT, end, raises=True)
            try:
                self._signals.attach()
                events._set_running_loop(self)
                sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
                if stop_soon:  # one turn, as asyncio's
                    self.stop()
                while not ended:
                    host.iterate(source)
            finally:
                events._set_running_loop(None)
                sys.set_asyncgen_hooks(*old_hooks)
                source.destroy()
        finally:
            host.release()


def new_event_loop(
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    poll_max_ns: int | None = None,
    main_context: Any = None,
) -> HostLoop:
    """A loop that serves GLib's sources; a `loop_factory`."""
    return HostLoop(fdmon, poll_max_ns, main_context)


def run(
    main: Coroutine[Any, Any, T],
    *,
    fdmon: str | FDMon | Callable[[], FDMon] = "auto",
    debug: bool | None = None,
    main_context: Any = None,
) -> T:
    """asyncio.run on a loop that serves GLib's sources meanwhile; the same as aioqemu_loop.run(main, glib=True)."""
    return run_on(functools.partial(new_event_loop, fdmon=fdmon, main_context=main_context), main, debug)
