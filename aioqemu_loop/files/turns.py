"""One operation at a time on a file, in the order in which the tasks came."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """take() before, give() after. Who finds `held` false and does not await need not take it."""

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self.held = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Waits while others have it. A task that is cancelled here does not have it."""
        if not self.held:
            self.held = True
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """To the next who waits. It stays held meanwhile, so that nobody comes in between."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.held = False
