"""The loops that are asked, and how one is made."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.metadata
from collections.abc import Callable

OURS = ("io_uring", "epoll", "poll")
LOOPS = ("asyncio", "uvloop", "rloop", *OURS)


def maker(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes loops of this name; ImportError or FDMonUnavailable where there are none."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name not in OURS:
        return importlib.import_module(name).new_event_loop
    import aioqemu_loop

    make = functools.partial(aioqemu_loop.new_event_loop, fdmon=name)
    make().close()
    return make


def version(name: str) -> str | None:
    """The version of the package behind a loop; None where it is not installed."""
    try:
        return importlib.metadata.version("aioqemu-loop" if name in OURS else name)
    except importlib.metadata.PackageNotFoundError:
        return None
