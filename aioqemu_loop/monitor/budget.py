"""What all clients of a monitor together may cost the program: their commands run under the GIL, which it needs."""

from __future__ import annotations

import asyncio
import time

# CPU seconds per second, and at once after a quiet time.
SHARE = 0.2
BURST = 0.25


class Budget:
    def __init__(self) -> None:
        self._left = BURST
        self._counted = time.monotonic()
        self._turn = asyncio.Lock()

    def spend(self, cpu_seconds: float) -> float:
        """Count what was used. Returns for how long, in seconds, there is nothing left."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._counted) * SHARE) - cpu_seconds
        self._counted = now
        return max(0.0, -self._left / SHARE)

    async def wait(self) -> None:
        """Until there is something left. Who waits longest is first; whoever comes anew waits, too."""
        async with self._turn:
            while pause := self.spend(0):
                await asyncio.sleep(pause)
