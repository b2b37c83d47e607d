"""Numbers as people read them in a narrow column, and what a view makes of two looks at a loop's counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BARS = " ▁▂▃▄▅▆▇█"


def duration(ns: float) -> str:
    """ "2us", "1.5ms", "3.2s"."""
    for limit, unit, size in ((1e3, "ns", 1.0), (1e6, "us", 1e3), (1e9, "ms", 1e6)):
        if ns < limit:
            value = ns / size
            return f"{value:.0f}{unit}" if value >= 10 or value == int(value) else f"{value:.1f}{unit}"
    seconds = ns / 1e9
    return (
        f"{seconds:.1f}s" if seconds < 100 else f"{seconds / 60:.0f}min" if seconds < 6000 else f"{seconds / 3600:.0f}h"
    )


def count(number: float) -> str:
    """ "950", "12.3k", "4.5M"."""
    for limit, unit, size in ((1e4, "", 1.0), (1e6, "k", 1e3), (1e9, "M", 1e6)):
        if number < limit:
            return f"{number / size:.0f}" if not unit else f"{number / size:.1f}{unit}"
    return f"{number / 1e9:.1f}G"


def upper_bound_ns(bucket: int) -> int:
    """Of a bucket of Metrics.busy_histogram."""
    return 2048 << bucket


def percentile(histogram: Sequence[int], part: float) -> float | None:
    """The upper bound, in ns, of the bucket in which that part of all is reached; None for an empty histogram."""
    wanted = part * sum(histogram)
    if not wanted:
        return None
    so_far = 0
    for bucket, number in enumerate(histogram):
        so_far += number
        if so_far >= wanted:
            return upper_bound_ns(bucket)
    return None


def bars(histogram: Sequence[int]) -> str:
    """A character for each bucket; the highest is full, and what is not 0 is never blank."""
    top = max(histogram, default=0)
    if not top:
        return " " * len(histogram)
    return "".join(BARS[-(-number * (len(BARS) - 1) // top)] for number in histogram)


class Rates:
    """What a loop did between two looks at its metrics, `seconds` apart."""

    def __init__(self, before: dict[str, Any], now: dict[str, Any], seconds: float) -> None:
        self._before = before
        self._now = now
        self._seconds = seconds

    def per_second(self, name: str) -> float:
        return float((self._now[name] - self._before[name]) / self._seconds)

    @property
    def busy(self) -> float:
        """The part of the time in which it did not wait, 0 to 1."""
        return min(1.0, max(0.0, 1 - self.per_second("waited_ns") / 1e9))

    @property
    def histogram(self) -> list[int]:
        return [
            now - before
            for now, before in zip(self._now["busy_histogram"], self._before["busy_histogram"], strict=True)
        ]
