"""An asyncio event loop for Linux with QEMU's AioContext inside: io_uring, epoll and poll, swappable while it runs."""

from aioqemu_loop import _main_interpreter  # noqa: F401 - before any compiled module
from aioqemu_loop._version import __version__
from aioqemu_loop.context.aio_context import AioContext
from aioqemu_loop.context.fdmons import fdmons
from aioqemu_loop.context.g_source import GSource
from aioqemu_loop.context.notifier import EventNotifier
from aioqemu_loop.fdmon.base import FDMon, FDMonUnavailable
from aioqemu_loop.iothread.iothread import IOThread
from aioqemu_loop.iothread.pool import IOThreadPool
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.policy import EventLoopPolicy, install, new_event_loop, run


def __getattr__(name: str) -> object:
    # These take time to import, and some need other packages.
    if name in ("files", "glib", "monitor", "otel", "pytest_plugin"):
        import importlib

        return importlib.import_module(f"aioqemu_loop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AioContext",
    "EventLoopPolicy",
    "EventNotifier",
    "FDMon",
    "FDMonUnavailable",
    "GSource",
    "IOThread",
    "IOThreadPool",
    "Loop",
    "__version__",
    "fdmons",
    "install",
    "new_event_loop",
    "run",
]
