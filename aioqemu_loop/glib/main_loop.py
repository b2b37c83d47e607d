"""GLib's own main loop in a thread of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gi.repository import GLib

from aioqemu_loop.glib.guest import attach
from aioqemu_loop.glib.host import use_ppoll

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop


def new_main_context() -> Any:
    """A GLib.MainContext that sleeps in ppoll(2), as everything else here that polls."""
    main_context = GLib.MainContext.new()
    use_ppoll(main_context)
    return main_context


def run_attached(loop: Loop, main_context: Any) -> None:
    """Run GLib's main loop on a main context, which is this thread's default one meanwhile, with `loop` attached, until
    loop.stop() is called."""
    main_loop = GLib.MainLoop.new(main_context, False)
    main_context.push_thread_default()
    try:
        with attach(loop, main_context, on_stop=main_loop.quit):
            # Not PyGObject's own run(), which asks asyncio's policy for a loop.
            super(GLib.MainLoop, main_loop).run()
    finally:
        main_context.pop_thread_default()
