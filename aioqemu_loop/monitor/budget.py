"""What all clients of a monitor together may cost the program: their commands run under the GIL, which it needs."""

from __future__ import annotations

import time

# CPU seconds per second, and at once after a quiet time.
SHARE = 0.2
BURST = 0.25


class Budget:
    def __init__(self) -> None:
        self._left = BURST
        self._counted = time.monotonic()

    def spend(self, cpu_seconds: float) -> float:
        """Count what was used. Returns for how long, in seconds, the next command has to wait."""
        now = time.monotonic()
        self._left = min(BURST, self._left + (now - self._counted) * SHARE) - cpu_seconds
        self._counted = now
        return max(0.0, -self._left / SHARE)
