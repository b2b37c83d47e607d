"""The event loops that the benchmarks know, by name.

A name is "asyncio", "uvloop", "rloop", or "aioqemu:" and a backend. "aioqemu:epoll@32768" also sets
`poll_max_ns`. That matters here: the benchmarks give a server one CPU, and a loop that sees one CPU does not
busy-poll unless it is told to.

Nothing is imported before it is asked for. A process that measures one loop must not carry the others.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable, Coroutine, Iterable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
Factory = Callable[[], asyncio.AbstractEventLoop]

DEFAULT = ("aioqemu:io_uring", "aioqemu:epoll", "aioqemu:poll", "asyncio", "uvloop", "rloop")
PEERS = ("uvloop", "rloop")


class LoopMissing(Exception):
    """This loop cannot be had here. The text is the reason, in words."""


def factory(name: str) -> Factory:
    """What makes a new loop of that name, or LoopMissing."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name in PEERS:
        return _attribute(_module(name), "new_event_loop")
    if name.startswith("aioqemu:"):
        return _ours(name.removeprefix("aioqemu:"))
    raise LoopMissing(f"no loop is called {name!r}; there are {', '.join(DEFAULT)}")


def usable(names: Iterable[str], say: Callable[[str], object] = print) -> list[str]:
    """Those of the names that can be had here. Says why the others cannot."""
    found = []
    for name in names:
        try:
            factory(name)
        except LoopMissing as missing:
            say(f"{name}: left out, {missing}")
        else:
            found.append(name)
    return found


def run(name: str, main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on a new loop of that name. asyncio.Runner only exists since Python 3.11."""
    loop = factory(name)()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _ours(backend: str) -> Factory:
    module = _module("aioqemu_loop")
    backend, _, spin = backend.partition("@")
    reasons = _attribute(module, "fdmons")()
    if backend not in reasons:
        raise LoopMissing(f"aioqemu_loop has no backend {backend!r}; it has {', '.join(reasons)}")
    if reasons[backend] is not None:
        raise LoopMissing(str(reasons[backend]))
    options: dict[str, Any] = {"fdmon": backend}
    if spin:
        if not spin.isdigit():
            raise LoopMissing(f"{spin!r} is not a number of nanoseconds")
        options["poll_max_ns"] = int(spin)
    return functools.partial(_attribute(module, "new_event_loop"), **options)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LoopMissing(f"cannot be imported: {error}") from error


def _attribute(module: ModuleType, name: str) -> Callable[..., Any]:
    # A checkout that was never built imports as an empty namespace package.
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None:
        raise LoopMissing(f"{module.__name__} has no {name}(); is it built?")
    return found
