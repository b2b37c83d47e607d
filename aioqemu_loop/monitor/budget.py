"""What a monitor may cost the program: its clients are served under the GIL, which the program needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

# CPU seconds per second, and at once after a quiet time.
SHARE = 0.2
BURST = 0.25
# Things that are described at once, without a look at the budget: less than 10 ms.
SLICE = 100

T = TypeVar("T")
U = TypeVar("U")


class Budget:
    """Made and used in the monitor's thread. What that thread uses of a CPU counts, whatever for."""

    def __init__(self) -> None:
        self._left = BURST
        self._counted = time.monotonic()
        self._used = time.thread_time()
        self._turn = asyncio.Lock()

    def pause(self) -> float:
        """For how long, in seconds, there is nothing left."""
        now, used = time.monotonic(), time.thread_time()
        self._left = min(BURST, self._left + (now - self._counted) * SHARE) - (used - self._used)
        self._counted, self._used = now, used
        return max(0.0, -self._left / SHARE)

    async def wait(self) -> None:
        """Until there is something left. Who waits longest is first; whoever comes anew waits, too."""
        async with self._turn:
            while pause := self.pause():
                await asyncio.sleep(pause)

    async def map(self, describe: Callable[[T], U], things: Sequence[T]) -> list[U]:
        """[describe(thing) for thing in things], not faster than there is something left; others come between."""
        found: list[U] = []
        for first in range(0, len(things), SLICE):
            await asyncio.sleep(0)
            await self.wait()
            found += [describe(thing) for thing in things[first : first + SLICE]]
        return found
