"""What several files here use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from ..processor import undisturbed
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
def ticking(milliseconds: int) -> Iterator[list[float]]:
    """The moments at which a GLib timeout fires, by a clock that stands still while others have the processors."""
    moments: list[float] = []
    source = GLib.timeout_source_new(milliseconds)
    source.set_callback(lambda *_: moments.append(undisturbed()) or True)
    source.attach()
    yield moments
    source.destroy()
