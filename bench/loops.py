"""What the benchmark compares, by name.

A name is a peer ("asyncio", "uvloop", ...), "aioqemu" for this package's loop with its default settings, or
"aioqemu:" and a backend. "aioqemu:epoll@32768" also sets `poll_max_ns`. That matters here: the benchmark gives a
server one CPU, and a loop that sees one CPU does not busy-poll unless it is told to. "c:epoll" and "c:io_uring" are
servers in C: not loops, but the limit for one, on the workloads that they can serve.

Nothing is imported before it is asked for. A process that measures one loop must not carry the others.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Callable, Coroutine, Iterable
from types import ModuleType
from typing import Any, TypeVar

from bench import NotMeasured

T = TypeVar("T")
Factory = Callable[[], asyncio.AbstractEventLoop]

OURS = "aioqemu"
BASELINE = "uvloop"
LIMITS = ("c:epoll", "c:io_uring")
PEERS = ("asyncio", "uvloop", "rloop", "rsloop", "zuvloop")
POLL_NS = 32768  # QEMU's default for an IOThread
SETTINGS = tuple(f"{OURS}:{backend}@{ns}" for backend in ("io_uring", "epoll", "poll") for ns in (0, POLL_NS))
DEFAULT = (*LIMITS, OURS, *SETTINGS, *PEERS)
QUICK = (OURS, "asyncio", "uvloop")


class LoopMissing(NotMeasured):
    """This loop cannot be had here. The text is the reason, in words."""


def factory(name: str) -> Factory:
    """What makes a new loop of that name, or LoopMissing."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name in PEERS:
        return _attribute(_module(name), "new_event_loop")
    if name == OURS:
        return _attribute(_module("aioqemu_loop"), "new_event_loop")
    if name.startswith(f"{OURS}:"):
        return _ours(name.removeprefix(f"{OURS}:"))
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


def is_ours(name: str) -> bool:
    return name.partition(":")[0] == OURS


def run(name: str, main: Coroutine[Any, Any, T]) -> T:
    """Like asyncio.run, on a new loop of that name. asyncio.Runner only exists since Python 3.11."""
    try:
        loop = factory(name)()
    except BaseException:
        main.close()  # or Python would complain that it was never awaited
        raise
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
