"""The loops of this process, for those who look at all of them: the monitor, exporters of metrics."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioqemu_loop.loop.loop import Loop

# By reference, which is gone with the loop: the process that made it. In the order in which they were made.
_made: dict[weakref.ref[Loop], int] = {}
# Called with each new loop, in the thread that makes it.
listeners: list[Callable[[Loop], None]] = []


def note(loop: Loop) -> None:
    """A loop was made, and belongs to this process."""
    _made[weakref.ref(loop, _made.pop)] = os.getpid()
    for listener in list(listeners):
        listener(loop)


def loops() -> list[Loop]:
    """Those that are not closed, in the order in which they were made; a parent process's are left out. Thread-safe."""
    pid = os.getpid()
    # A copy is made at once; a list of pairs is not, and the collector may find a loop meanwhile.
    found = [(made(), maker) for made, maker in _made.copy().items()]
    return [loop for loop, maker in found if loop is not None and maker == pid and not loop.is_closed()]
