"""asyncio and GLib in one thread, on PyGObject (pip install PyGObject).

Guest: attach() makes a loop a source of a GLib.MainContext, which the application runs as it always did.
Host: run() runs the loop, which serves GLib's sources (timeouts, idles, io watches, D-Bus, child watches).
"""

try:
    from gi.repository import GLib as _GLib  # noqa: F401
except ImportError as _missing:
    raise ImportError("aioqemu_loop.glib needs PyGObject: pip install PyGObject") from _missing

from aioqemu_loop.glib.guest import Guest, attach, create_task
from aioqemu_loop.glib.host_loop import HostLoop, new_event_loop, run
from aioqemu_loop.glib.serving import serve_forever
from aioqemu_loop.glib.watch import Watch, create_watch

__all__ = [
    "Guest",
    "HostLoop",
    "Watch",
    "attach",
    "create_task",
    "create_watch",
    "new_event_loop",
    "run",
    "serve_forever",
]
