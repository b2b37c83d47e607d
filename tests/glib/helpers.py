"""What several files here use."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

from .real import GLib


class Receiver(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@contextlib.contextmanager
def ticking(milliseconds: int, clock: Callable[[], float] = time.monotonic) -> Iterator[list[float]]:
    """The moments at which a GLib timeout fires."""
    moments: list[float] = []
    source = GLib.timeout_source_new(milliseconds)
    source.set_callback(lambda *_: moments.append(clock()) or True)
    source.attach()
    yield moments
    source.destroy()


def usual_lateness(seconds: float) -> float:
    """How late the kernel wakes this thread up after such a sleep, without any loop; others may want the CPU, too."""
    late = []
    for _ in range(20):
        due = time.monotonic() + seconds
        time.sleep(seconds)
        late.append(time.monotonic() - due)
    return statistics.median(late)
