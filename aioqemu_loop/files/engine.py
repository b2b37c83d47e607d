"""Single operations on file descriptors that do not block the loop: here all of them by its default executor."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, StrOrBytesPath, WriteableBuffer

Result = TypeVar("Result")


class Engine:
    """One per event loop: see engine_of().

    All methods raise OSError. A call that is cancelled raises CancelledError when kernel and threads are through with
    its buffer. A read at the file's position (offset -1) that is cancelled leaves the position where it was; a write
    that is cancelled moves it by what was written, which it tells: CancelledError.done, bytes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def call(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """function(*args, **kwargs) in the default executor."""
        result, cancelled = await self._finish(functools.partial(function, *args, **kwargs))
        if cancelled:
            raise cancelled
        return result

    async def _finish(self, job: Callable[[], Result]) -> tuple[Result, asyncio.CancelledError | None]:
        """Wait for the job's end, and say whether this was cancelled meanwhile."""
        future = self._loop.run_in_executor(None, job)
        cancelled = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled and future.exception():
            raise cancelled
        return future.result(), cancelled

    async def read(self, fd: int, size: int, offset: int = -1) -> bytes:
        """Up to `size` bytes; b"" at the end. Offset -1: at and with the file's position."""
        if offset >= 0:
            return await self.call(os.pread, fd, size, offset)
        data, cancelled = await self._finish(functools.partial(os.read, fd, size))
        if cancelled:
            self._unread(fd, len(data))
            raise cancelled
        return data

    async def readinto(self, fd: int, buffer: WriteableBuffer, offset: int = -1) -> int:
        """Into `buffer`; returns how many bytes."""
        if offset >= 0:
            return await self.call(os.preadv, fd, [buffer], offset)
        size, cancelled = await self._finish(functools.partial(os.readv, fd, [buffer]))
        if cancelled:
            self._unread(fd, size)
            raise cancelled
        return size

    @staticmethod
    def _unread(fd: int, size: int) -> None:
        with contextlib.suppress(OSError):
            os.lseek(fd, -size, os.SEEK_CUR)

    async def write(self, fd: int, data: ReadableBuffer, offset: int = -1) -> int:
        """Returns how many bytes: less than `data` has only where the kernel stops."""
        if offset >= 0:
            return await self.call(os.pwrite, fd, data, offset)
        size, cancelled = await self._finish(functools.partial(os.write, fd, data))
        if cancelled:
            cancelled.done = size  # type: ignore[attr-defined]
            raise cancelled
        return size

    async def readv(self, fd: int, buffers: Sequence[WriteableBuffer], offset: int) -> int:
        """Into the buffers, one after the other."""
        return await self.call(os.preadv, fd, buffers, offset)

    async def writev(self, fd: int, buffers: Sequence[ReadableBuffer], offset: int) -> int:
        """From the buffers, one after the other."""
        return await self.call(os.pwritev, fd, buffers, offset)

    async def fsync(self, fd: int) -> None:
        """Data and metadata to the disk."""
        await self.call(os.fsync, fd)

    async def fdatasync(self, fd: int) -> None:
        """Data, and what is needed to find it, to the disk."""
        await self.call(os.fdatasync, fd)

    async def open(self, path: StrOrBytesPath, flags: int, mode: int = 0o777, dir_fd: int | None = None) -> int:
        """A new fd, close-on-exec."""
        job = functools.partial(os.open, path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
        fd, cancelled = await self._finish(job)
        if cancelled:
            os.close(fd)
            raise cancelled
        return fd

    async def close(self, fd: int) -> None:
        """Also when it is cancelled."""
        await self.call(os.close, fd)

    async def stat(
        self, path: StrOrBytesPath | int, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        """As os.stat(); `path` may be a file descriptor."""
        return await self.call(os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


_engines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Engine] = weakref.WeakKeyDictionary()


def engine_of(loop: asyncio.AbstractEventLoop) -> Engine:
    """The engine of this event loop, which may be any."""
    engine = _engines.get(loop)
    if engine is None:
        engine = _engines[loop] = Engine(loop)
    return engine
