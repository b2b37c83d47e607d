"""One operation at a time on a file, in the order in which the tasks came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator


class Taken(Awaitable[None]):
    """To be awaited where there is nothing to wait for: cheaper than a coroutine that does nothing."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:  # type: ignore[override]
        return iter(())


TAKEN = Taken()


class Turns:
    """`await take()` before, give() after. Who finds `held` false and does not await need not take it."""

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self.held = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    def take(self) -> Awaitable[None]:
        """Has it at once, or waits while others have it. A task that is cancelled here does not have it."""
        if self.held:
            return self._wait()
        self.held = True
        return TAKEN

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = deque()
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
