"""A loop as a guest of a GLib.MainContext."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from gi.repository import GLib

from aioqemu_loop.glib.loop_source import LoopSource

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop

T = TypeVar("T")

# Which guest is whose: create_task() looks here. By the main context: PyGObject's wrappers of the same one are equal.
_guests: dict[Any, Guest] = {}


class Guest:
    """A loop attached to a GLib.MainContext. It counts as running until detach(); also a context manager."""

    def __init__(
        self,
        loop: Loop,
        main_context: Any = None,
        priority: int = GLib.PRIORITY_DEFAULT,
        on_stop: Callable[[], Any] | None = None,
    ) -> None:
        if main_context is None:
            main_context = GLib.MainContext.default()
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
    Raises RuntimeError where the loop is closed, running or attached, or the main context has a loop already.
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

    loop: by default the running one, else the one attached to this thread's main context, else to the default one.
    `context` is for Python 3.11 and newer. Raises RuntimeError where there is none; the coroutine is closed then.
    """
    if loop is None:
        loop = asyncio._get_running_loop() or _attached_here()
    if loop is None:
        coro.close()
        raise RuntimeError("no loop is attached to this thread's GLib.MainContext")
    options: dict[str, Any] = {"name": name}
    if context is not None:
        options["context"] = context
    return loop.create_task(coro, **options)


def _attached_here() -> Loop | None:
    guest = _guests.get(GLib.MainContext.ref_thread_default()) or _guests.get(GLib.MainContext.default())
    return guest.loop if guest is not None else None
