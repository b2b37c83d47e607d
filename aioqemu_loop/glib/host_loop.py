"""A loop that serves GLib's sources."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from aioqemu_loop.glib.guest import checked_main_context
from aioqemu_loop.glib.serving import serve_forever
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.loop.running import run_on

if TYPE_CHECKING:
    from aioqemu_loop.fdmon.base import FDMon

T = TypeVar("T")


class HostLoop(Loop):
    """A Loop whose run_forever() also iterates a GLib.MainContext (None: the default one), as serve_forever() says.

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
        serve_forever(self, self.main_context)


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
