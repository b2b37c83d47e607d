"""The loops that are asked, and how one is made."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.metadata

OURS = ("io_uring", "epoll", "poll")
LOOPS = ("asyncio", "uvloop", "rloop", *OURS)


class Maker:
    """Makes loops of this name; ImportError or FDMonUnavailable where there are none."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "asyncio":
            self.make = asyncio.SelectorEventLoop
        elif name in OURS:
            package = importlib.import_module("aioqemu_loop")
            self.make = functools.partial(package.new_event_loop, fdmon=name)
            self.make().close()
        else:
            self.make = importlib.import_module(name).new_event_loop

    def __call__(self) -> asyncio.AbstractEventLoop:
        return self.make()


def version(name: str) -> str | None:
    """The version of the package behind a loop; None where it is not installed."""
    try:
        return importlib.metadata.version("aioqemu-loop" if name in OURS else name)
    except importlib.metadata.PackageNotFoundError:
        return None
