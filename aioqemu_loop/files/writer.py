"""Buffered writing. What fits into the buffer goes there without waiting, if nobody is at it."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, SupportsIndex

from aioqemu_loop.files.arguments import as_bytes, as_offset
from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.raw import AsyncFileIO
from aioqemu_loop.files.reader import Reading

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Writing(AsyncBuffered):
    """The methods of buffered files that write."""

    def __init__(self, raw: AsyncFileIO, buffer_size: int) -> None:
        super().__init__(raw, buffer_size)
        self._count_room()

    def _count_room(self) -> None:
        self._room = self._size - len(self._pending)

    def can_write(self) -> bool:
        return self.raw.can_write()

    async def write(self, data: ReadableBuffer) -> int:
        """Buffers what fits, else writes. Returns the number of bytes, all of them.

        If it fails, what was in the buffer and could not be written is still there, and `data` is not. If it is
        cancelled, either all of `data` is written or buffered, or nothing. BlockingIOError, with characters_written,
        where a non-blocking file takes no more than the buffer holds.
        """
        view = as_bytes(data) if data.__class__ is not bytes else data
        if self.put(view):  # type: ignore[arg-type]
            return len(view)
        self._open_raw("write to closed file")
        await self._turns.take()
        try:
            return await self._write(self._open_raw("write to closed file"), memoryview(view))
        finally:
            self._turns.give()

    async def _write(self, raw: AsyncFileIO, view: memoryview) -> int:
        self._unread_chunk()
        size = len(view)
        if size > self._room:
            try:
                await self._write_pending()
            except BlockingIOError as exc:
                self._keep(view, 0, exc)
                return size
            view = await self._write_large(raw, view)
        self._pending += view
        self._count_room()
        return size

    async def _write_large(self, raw: AsyncFileIO, view: memoryview) -> memoryview:
        """Write what is more than a buffer holds past the buffer, which is empty. Returns the rest."""
        size = len(view)
        while len(view) > self._size:
            try:
                done = await raw.write_some(view)
            except asyncio.CancelledError as exc:
                done = getattr(exc, "done", 0)
                if done or len(view) < size:  # once it has begun it ends
                    self._pending += view[done:]
                    self._count_room()
                raise
            if done is None:
                self._keep(view, size - len(view), None)
                return view[:0]
            view = view[done:]
        return view

    def _keep(self, view: memoryview, written: int, cause: BlockingIOError | None) -> None:
        """A non-blocking file takes nothing now: buffer what fits, BlockingIOError if that is not all."""
        fits = view[: max(0, self._size - len(self._pending))]
        self._pending += fits
        self._count_room()
        if len(fits) < len(view):
            text = "write could not complete without blocking"
            raise BlockingIOError(errno.EAGAIN, text, written + len(fits)) from cause

    async def flush(self) -> None:
        """Write what is buffered; the kernel's position is the file's afterwards."""
        self._open_raw("flush of closed file")
        await self._turns.take()
        try:
            self._open_raw("flush of closed file")
            await self._write_pending()
            self._unread_chunk()
        finally:
            self._turns.give()

    async def truncate(self, size: SupportsIndex | None = None) -> int:
        self._open_raw("truncate of closed file")
        await self._turns.take()
        try:
            raw = self._open_raw("truncate of closed file")
            await self._write_pending()
            self._unread_chunk()
            return await raw.cut(raw.position() if size is None else as_offset(size))
        finally:
            self._turns.give()


class AsyncBufferedWriter(Writing):
    """A file that is written, with a buffer: io.BufferedWriter's methods, awaitable, and pwrite() and pwritev()."""


class AsyncBufferedRandom(Reading, Writing):
    """A file that is read and written, with a buffer: io.BufferedRandom's methods, awaitable, and pread(), pwrite()...

    In mode 'a+', seek between writing and reading, as POSIX asks for.
    """
