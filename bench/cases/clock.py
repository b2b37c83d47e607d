"""Counts the operations of a case, and the CPU time of this process meanwhile."""

from __future__ import annotations

import resource
from array import array
from collections.abc import Awaitable, Callable
from statistics import quantiles
from time import perf_counter


class Clock:
    def __init__(self, seconds: float, address: str = "") -> None:
        self.address = address  # of the fixed server, where the case is a client
        self.seconds = seconds
        self._count = 0
        self._latencies = array("f")  # seconds; small, because the peak of this process's memory is measured too

    def start(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._now = self._began = perf_counter()
        self._until = self._began + self.seconds

    def another(self, operations: int) -> bool:
        """Note so many operations done. True while there is time for more.

        The clock is read at each call, so ask once per batch where an operation takes less than a microsecond or two.
        """
        self._count += operations
        self._now = perf_counter()
        if self._now < self._until:
            return True
        self.stop()
        return False

    def stop(self) -> None:
        """The measured time ends now, where the work ends before the time does. The last of several calls counts."""
        self._now = perf_counter()
        self._after = resource.getrusage(resource.RUSAGE_SELF)

    def another_one(self) -> bool:
        """Note one operation, which has taken the time since the last call of this method or since the start."""
        before = self._now
        more = self.another(1)
        self._latencies.append(self._now - before)
        return more

    def note(self, latency: float) -> None:
        """Note how many seconds one operation took, where several are under way at once."""
        self._latencies.append(latency)

    def result(self) -> dict[str, float]:
        """As the load programs print it: counts, seconds and microseconds, all for the measured time."""
        answer = {
            "operations": self._count,
            "seconds": self._now - self._began,
            "user_us": (self._after.ru_utime - self._before.ru_utime) * 1e6,
            "sys_us": (self._after.ru_stime - self._before.ru_stime) * 1e6,
        }
        if len(self._latencies) > 1:
            parts = quantiles(self._latencies, n=100)
            answer |= {"p50_us": parts[49] * 1e6, "p99_us": parts[98] * 1e6}
        return answer


Case = Callable[[Clock], Awaitable[None]]
