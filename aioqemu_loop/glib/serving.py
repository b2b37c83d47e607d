"""A loop that runs by iterating a GLib main context, with itself among that context's sources."""

from __future__ import annotations

import sys
from asyncio import events
from typing import TYPE_CHECKING, Any

from gi.repository import GLib

from aioqemu_loop.glib.host import MainContextHost
from aioqemu_loop.glib.loop_source import LoopSource

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop


def serve_forever(loop: Loop, main_context: Any) -> None:
    """loop.run_forever(), which serves the sources of `main_context`, too; that is the thread's default one meanwhile.

    It is the running loop in GLib's callbacks as well. Raises RuntimeError where the loop is closed or running, another
    one is running here, or another thread owns the main context; and what comes out of run_forever() elsewhere.
    """
    loop._check_closed()
    loop._check_running()
    if events._get_running_loop() is not None:
        raise RuntimeError("Cannot run the event loop while another loop is running")
    host = MainContextHost(main_context)
    main_context.push_thread_default()
    try:
        _iterate(loop, main_context, host)
    finally:
        main_context.pop_thread_default()
        host.release()


def _iterate(loop: Loop, main_context: Any, host: MainContextHost) -> None:
    stop_soon = loop._stopping
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True

    old_hooks = sys.get_asyncgen_hooks()
    source = LoopSource(loop.context.get_g_source(), main_context, GLib.PRIORITY_DEFAULT, end, raises=True)
    try:
        loop._signals.attach()
        events._set_running_loop(loop)
        sys.set_asyncgen_hooks(firstiter=loop._asyncgen_firstiter_hook, finalizer=loop._asyncgen_finalizer_hook)
        if stop_soon:  # one turn, as asyncio's
            loop.stop()
        while not ended:
            host.iterate(source)
    finally:
        events._set_running_loop(None)
        sys.set_asyncgen_hooks(*old_hooks)
        source.destroy()
