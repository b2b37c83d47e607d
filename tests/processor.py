"""Time without that for which other processes had the processors: what a test may hold a loop to on a busy machine."""

from __future__ import annotations

import time


def kept_waiting() -> float:
    """Seconds for which this thread was ready to run and did not: schedstat (0 without CONFIG_SCHED_INFO)."""
    try:
        with open("/proc/thread-self/schedstat", "rb", buffering=0) as file:
            return int(file.read().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def undisturbed() -> float:
    """A clock for differences, in seconds: time.monotonic(), which stands still while this thread is kept waiting. It
    goes on while the thread sleeps, so what wakes up too late is late."""
    return time.monotonic() - kept_waiting()
