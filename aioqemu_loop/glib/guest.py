"""A loop as a guest of a GLib.MainContext."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

from gi.repository import GLib

from aioqemu_loop.glib.loop_source import LoopSource
from aioqemu_loop.loop.loop import Loop

T = TypeVar("T")

# Which guest is whose: create_task() looks here. By the main context: PyGObject's wrappers of the same one are equal.
_guests: dict[Any, Guest] = {}
os.register_at_fork(after_in_child=_guests.clear)


class Guest:
    """A loop attached to a GLib.MainContext. It counts as running until detach(); also a context manager."""

    def __init__(
        self,
        loop: Loop,
        main_context: Any = None,
        priority: int = GLib.PRIORITY_DEFAULT,
        on_stop: Callable[[], Any] | None = None,
    ) -> None:
        if not isinstance(loop, Loop):
            raise TypeError(f"loop must be an aioqemu_loop.Loop, not {loop!r}")
        main_context = checked_main_context(main_context)
        if not isinstance(priority, int) or abs(priority) > GLib.MAXINT:
            raise TypeError(f"priority must be one of GLib's, an int, not {priority!r}")
        if on_stop is not None and not callable(on_stop):
            raise TypeError(f"on_stop must be callable, not {on_stop!r}")
        if main_context in _guests:
            raise RuntimeError(f"{_guests[main_context].loop!r} is attached to this GLib.MainContext already")
        loop._check_closed()
        source = loop.context.get_g_source()
        try:
            self._source = LoopSource(source, main_context, priority, on_stop or self.detach)
        except BaseException:
            source.destroy()
            raise
        self.loop: Loop = loop
        self.main_context = main_context
        _guests[main_context] = self

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the loop out of the main context: it can be run, or attached again. Nothing happens if that was done.

        Inside a callback of the loop it takes effect when the loop's callbacks of this iteration have run.
        """
        if _guests.get(self.main_context) is self:
            del _guests[self.main_context]
        self._source.destroy()


def checked_main_context(main_context: Any) -> Any:
    """None is the default one. Raises TypeError for what is no GLib.MainContext."""
    if main_context is None:
        return GLib.MainContext.default()
    if not isinstance(main_context, GLib.MainContext):
        raise TypeError(f"main_context must be a GLib.MainContext or None, not {main_context!r}")
    return main_context


def attach(
    loop: Loop,
    main_context: Any = None,
    *,
    priority: int = GLib.PRIORITY_DEFAULT,
    on_stop: Callable[[], Any] | None = None,
) -> Guest:
    """Make `loop` a source of a GLib.MainContext (None: the default one): it runs where and when that is iterated.

    loop.use_g_source() is called where it was not: fdmon is "poll" then. priority: GLib's; on_stop: called after
    loop.stop(), for instance main_loop.quit; without it stop() detaches. Timers are as precise as GLib's, 1 ms.
    Raises TypeError, and RuntimeError where the loop is closed, running or attached, or the main context has a loop.
    """
    return Guest(loop, main_context, priority, on_stop)


def create_task(
    coro: Coroutine[Any, Any, T],
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    name: str | None = None,
    context: Context | None = None,
) -> asyncio.Task[T]:
    """asyncio.create_task for callbacks of GLib's: a button's handler can start a coroutine.

    loop: by default the running one, else the one that is attached to a main context which this thread iterates; of
    several, to the thread-default one. `context` is for Python 3.11 and newer. Raises RuntimeError where there is none;
    the coroutine is closed then.
    """
    if loop is None:
        loop = asyncio._get_running_loop() or _attached_here()
    if loop is None:
        coro.close()
        raise RuntimeError("no loop is attached to a GLib.MainContext of this thread")
    options: dict[str, Any] = {"name": name}
    if context is not None:
        options["context"] = context
    return loop.create_task(coro, **options)


def _attached_here() -> Loop | None:
    me = threading.get_ident()
    here = {context: guest.loop for context, guest in _guests.items() if guest.loop._thread_id == me}
    if len(here) > 1:
        return here.get(GLib.MainContext.ref_thread_default())
    return next(iter(here.values()), None)
