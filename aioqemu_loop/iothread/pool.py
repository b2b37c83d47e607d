"""IOThreadPool: several IOThreads that share a server's connections."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, overload

from aioqemu_loop.iothread.iothread import IOThread


class IOThreadPool(Sequence[IOThread]):
    """`count` IOThreads called "<name>-0", "<name>-1", ..., all made with `options`, those of IOThread. For
    create_server(iothreads=pool) and its like. Raises as IOThread does; none is left running then."""

    def __init__(self, count: int, name: str = "iothread", **options: Any) -> None:
        if not isinstance(count, int):
            raise TypeError(f"count must be an int, not {count!r}")
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        self._threads: list[IOThread] = []
        try:
            for i in range(count):
                self._threads.append(IOThread(f"{name}-{i}", **options))
        except BaseException:
            self.stop()
            raise

    def __repr__(self) -> str:
        return f"<IOThreadPool {self._threads!r}>"

    def __len__(self) -> int:
        return len(self._threads)

    @overload
    def __getitem__(self, index: int) -> IOThread: ...
    @overload
    def __getitem__(self, index: slice) -> list[IOThread]: ...
    def __getitem__(self, index: int | slice) -> IOThread | list[IOThread]:
        return self._threads[index]

    def __enter__(self) -> IOThreadPool:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all of them; see IOThread.stop(). None has been asked to where that raises RuntimeError."""
        for thread in self._threads:
            thread.check_stoppable()
        for thread in self._threads:
            thread._request_stop()  # all at once, so that they end side by side
        for thread in self._threads:
            thread.stop()
