"""What several tasks want done, done once for all of them: fsync()."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Rounds:
    """`await join()`: returns when a round of `work()` is over that began after this was asked for.

    So one who asks while a round is under way waits for the next, together with all the others who ask meanwhile. One
    task of each round does the work for all of it; if that task is cancelled, another does.
    """

    __slots__ = ("_begun", "_waiting", "_work")

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._begun = False
        # Who waits for the next round. Their result: whether they are to do its work.
        self._waiting: list[asyncio.Future[bool]] = []

    @property
    def under_way(self) -> bool:
        return self._begun

    async def join(self) -> None:
        """Raises what work() raises, to all of the round."""
        if self._begun and not await self._is_chosen():
            return
        self._begun = True
        others, self._waiting = self._waiting, []
        try:
            await self._work()
        except Exception as exc:
            for other in others:
                if not other.done():
                    other.set_exception(exc)
            raise
        except BaseException:
            self._waiting[:0] = others
            raise
        else:
            for other in others:
                if not other.done():
                    other.set_result(False)
        finally:
            self._choose()

    async def _is_chosen(self) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None and future.result():
                self._choose()
            raise

    def _choose(self) -> None:
        """One of those that wait does the next round's work. Nobody does any meanwhile."""
        while self._waiting:
            future = self._waiting.pop(0)
            if not future.done():
                future.set_result(True)
                return
        self._begun = False
