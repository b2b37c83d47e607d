"""The loops of this process, for those who look at all of them: the monitor, exporters of metrics."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop

_made: list[tuple[int, weakref.ref[Loop]]] = []
# Called with each new loop, in the thread that makes it.
listeners: list[Callable[[Loop], None]] = []


def note(loop: Loop) -> None:
    """A loop was made, and belongs to this process."""
    _made[:] = [(pid, made) for pid, made in _made if made() is not None]
    _made.append((os.getpid(), weakref.ref(loop)))
    for listener in list(listeners):
        listener(loop)


def loops() -> list[Loop]:
    """Those that are not closed, in the order in which they were made; a parent process's are left out. Thread-safe."""
    pid = os.getpid()
    found = [(maker, made()) for maker, made in list(_made)]
    return [loop for maker, loop in found if loop is not None and maker == pid and not loop.is_closed()]
