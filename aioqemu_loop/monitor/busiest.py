"""Which callbacks a loop spends its time in: each is timed for a moment, by the loop's own thread."""

from __future__ import annotations

import collections
import time
from typing import Any

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.naming import callable_name, coroutine_name, is_function
from aioqemu_loop.monitor.standard import is_task, task_coroutine, type_name
from aioqemu_loop.monitor.transports import innermost_protocol

# Different names that are counted; the rest goes together.
MAX_NAMES = 1000
OTHERS = "(others)"
# Of a callback of ours that belongs to nobody.
OWN = "aioqemu_loop"


class Stopwatch:
    """Told of every callback of a loop, in the loop's thread. A callback in which others run (a nested loop) has the
    time of those as well."""

    def __init__(self) -> None:
        # Name -> [calls, ns].
        self.times: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        self._names: list[str] = []  # of those that have begun

    def told(self, source: Any, took_ns: int) -> None:
        """took_ns: -1 where it begins."""
        if took_ns < 0:
            self._names.append(source_name(source))
        elif self._names:  # else it began before
            name = self._names.pop()
            entry = self.times[name if name in self.times or len(self.times) < MAX_NAMES else OTHERS]
            entry[0] += 1
            entry[1] += took_ns


class Timing:
    """What loops spend their time in, from begin to end of the with block."""

    def __init__(self, loops: list[Loop]) -> None:
        self._watches = [(loop, Stopwatch()) for loop in loops]
        self._began = 0

    def __enter__(self) -> Timing:
        self._began = time.monotonic_ns()
        for loop, watch in self._watches:
            probes.add_callback_listener(loop, watch.told)
        return self

    def __exit__(self, *_: object) -> None:
        for loop, watch in self._watches:
            probes.remove_callback_listener(loop, watch.told)

    def busiest(self, limit: int) -> list[dict[str, Any]]:
        """Of each loop, those that took most first."""
        window = max(1, time.monotonic_ns() - self._began)
        found = []
        for loop, watch in self._watches:
            entries = list(watch.times.items())  # it may grow meanwhile
            entries.sort(key=lambda item: -item[1][1])
            found += [
                {
                    "loop": probes.loop_id(loop),
                    "callback": name,
                    "calls": calls,
                    "seconds": took / 1e9,
                    "share": round(took / window, 4),
                }
                for name, (calls, took) in entries[:limit]
            ]
        return found


def source_name(source: Any) -> str:
    """The coroutine where it is a task's step, the protocol where it is a transport's, else what is called."""
    owner = probes.owner_of(source)
    if owner is not None:
        return type_name(innermost_protocol(owner))
    callback = getattr(source, "_callback", None) or getattr(source, "callback", None)
    if callback is None:
        return OWN
    task = getattr(callback, "__self__", None) if is_function(callback) else None
    return coroutine_name(task_coroutine(task)) if is_task(task) else callable_name(callback)
