"""Finds loops that one callback holds: a few looks per threshold at what each has got done."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.stacks import thread_stack
from aioqemu_loop.monitor.standard import task_name, thread_attribute

LOOKS_PER_THRESHOLD = 4


@dataclass
class _Sight:
    """A loop that was awake: what it had got done when it was first seen so, and when that was."""

    done: tuple[int, int]
    since: float
    told: bool = False


class Stalls:
    """`tell(event, data)` is called with LOOP_STALLED once per stall, and LOOP_RESUMED when it is over."""

    def __init__(self, threshold: float, tell: Callable[[str, dict[str, Any]], None]) -> None:
        self._threshold = threshold
        self._tell = tell
        self._sights: weakref.WeakKeyDictionary[Loop, _Sight] = weakref.WeakKeyDictionary()

    def look(self, loops: list[Loop]) -> float:
        """At all loops of the program. Returns in how many seconds to look again."""
        now = time.monotonic()
        running = [loop for loop in loops if loop.is_running()]
        for loop in loops:
            self._look_at(loop, now)
        return self._threshold / LOOKS_PER_THRESHOLD if running else self._threshold

    def stalled_for(self, loop: Loop) -> float | None:
        """Seconds that a loop has been stalled for, None where it is not."""
        sight = self._sights.get(loop)
        return round(time.monotonic() - sight.since, 3) if sight is not None and sight.told else None

    def _look_at(self, loop: Loop, now: float) -> None:
        before = self._sights.get(loop)
        done, asleep = probes.progress(loop)
        holds = loop.is_running() and not asleep
        if before is not None and holds and before.done == done:
            if not before.told and now - before.since >= self._threshold:
                before.told = True
                self._tell("LOOP_STALLED", {**self._details(loop, before, now), **_whereabouts(loop)})
            return
        if before is not None and before.told:
            self._tell("LOOP_RESUMED", self._details(loop, before, now))
        if holds:
            self._sights[loop] = _Sight(done, now)
        else:
            self._sights.pop(loop, None)

    def _details(self, loop: Loop, sight: _Sight, now: float) -> dict[str, Any]:
        return {"loop": probes.loop_id(loop), "seconds": round(now - sight.since, 3)}


def _whereabouts(loop: Loop) -> dict[str, Any]:
    thread = probes.thread_of(loop)
    task = probes.current_task(loop)
    return {
        "thread": thread_attribute(thread, "name"),
        "thread-id": thread_attribute(thread, "native_id"),
        "task": None if task is None else {"id": probes.task_id(task), "name": task_name(task)},
        "stack": thread_stack(probes.thread_ident(loop)),
    }
