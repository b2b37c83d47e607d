"""What buffered readers and writers have in common: the buffers, the position, the end.

Two buffers: what was read ahead (`_chunk` from `_used` on), and what is to be written (`_pending`). At most one of them
has something in it; so the file's position is the kernel's, minus the one or plus the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, SupportsIndex

from aioqemu_loop.files.arguments import as_position, as_size, as_space
from aioqemu_loop.files.base import AsyncFile
from aioqemu_loop.files.raw import AsyncFileIO, warn_unclosed
from aioqemu_loop.files.turns import Turns

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

SEEKS = (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE)


class AsyncBuffered(AsyncFile[bytes]):
    """A binary file with a buffer: the common part."""

    def __init__(self, raw: AsyncFileIO, buffer_size: int) -> None:
        """Takes over `raw`; the buffer is for `buffer_size` bytes."""
        if buffer_size <= 0:
            raise ValueError("buffer size must be strictly positive")
        self._raw: AsyncFileIO | None = raw
        raw.covered = True
        self._size = buffer_size
        self._turns = Turns()
        self._chunk = b""
        self._used = 0
        self._pending = bytearray()
        # How many bytes write() may put into _pending at once; -1 where it has to look first.
        self._room = -1
        self.covered = False  # a text file is on top, which looks after its end

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def raw(self) -> AsyncFileIO:
        """The file below, without a buffer. ValueError once it was detached."""
        if self._raw is None:
            raise ValueError("raw stream has been detached")
        return self._raw

    @property
    def closed(self) -> bool:
        return self.raw.closed

    @property
    def name(self) -> str | bytes | int:
        """What was opened: a path or a file descriptor."""
        return self.raw.name

    @property
    def mode(self) -> str:
        """As io.FileIO tells it: 'rb', 'rb+', ..."""
        return self.raw.mode

    def __repr__(self) -> str:
        kind = f"{type(self).__module__.rpartition('.')[0]}.{type(self).__name__}"
        return f"<{kind}>" if self._raw is None else f"<{kind} name={self.name!r}>"

    def fileno(self) -> int:
        """The file descriptor. ValueError if closed."""
        return self.raw.fileno()

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return False

    async def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.can_write()

    async def seekable(self) -> bool:
        """Whether it has a position that can be set: pipes and terminals have not."""
        return self.raw.can_seek()

    def can_seek(self) -> bool:
        """seekable(), at once."""
        return self.raw.can_seek()

    def can_write(self) -> bool:
        """writable(), at once."""
        return False

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return await self.raw.isatty()

    def _open_raw(self, refusal: str) -> AsyncFileIO:
        """The file below, or ValueError."""
        raw = self.raw
        if raw.closed:
            raise ValueError(refusal)
        return raw

    # --- what the other half of the classes can do ----------------------------------------------------

    async def read(self, size: SupportsIndex | None = -1) -> bytes:
        raise io.UnsupportedOperation("read")

    async def read1(self, size: SupportsIndex | None = -1) -> bytes:
        raise io.UnsupportedOperation("read1")

    async def readinto(self, buffer: WriteableBuffer) -> int:
        as_space(buffer, "readinto")
        raise io.UnsupportedOperation("read")

    async def readinto1(self, buffer: WriteableBuffer) -> int:
        as_space(buffer, "readinto1")
        raise io.UnsupportedOperation("read1")

    async def readline(self, size: SupportsIndex | None = -1) -> bytes:
        if not as_size(size):
            return b""
        raise io.UnsupportedOperation("read")

    async def write(self, data: ReadableBuffer) -> int:
        raise io.UnsupportedOperation("write")

    def put(self, data: bytes) -> bool:
        """write() at once, if nothing has to be looked at or waited for; else False."""
        if len(data) > self._room or self._chunk or self._turns.held:
            return False
        self._pending += data
        self._room -= len(data)
        return True

    async def truncate(self, size: SupportsIndex | None = None) -> int:
        """Make the file `size` bytes long, or end at the position, which stays. Returns the size."""
        self._open_raw("truncate of closed file")
        raise io.UnsupportedOperation("truncate")

    # --- the position ---------------------------------------------------------------------------------

    async def tell(self) -> int:
        """The position, bytes from the start."""
        return self.position()

    def position(self) -> int:
        """tell(), at once."""
        return self.raw.position() - (len(self._chunk) - self._used) + len(self._pending)

    async def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET) -> int:
        """Set the position; returns it, from the file's start. What was read ahead is kept where it can be."""
        raw = self.raw
        if whence not in SEEKS:
            raise ValueError(f"whence value {whence} unsupported")
        if raw.closed:
            raise ValueError("seek of closed file")
        if not raw.can_seek():
            raise io.UnsupportedOperation("File or stream is not seekable.")
        target = as_position(offset)
        await self._turns.take()
        try:
            raw = self._open_raw("seek of closed file")
            ahead = len(self._chunk) - self._used
            if ahead and whence in (os.SEEK_SET, os.SEEK_CUR):
                here = raw.position() - ahead
                step = target if whence == os.SEEK_CUR else target - here
                if -self._used <= step <= ahead:
                    self._used += step
                    return here + step
            await self._write_pending()
            if whence == os.SEEK_CUR:
                target -= ahead
            position = await raw.move(target, whence)
            self._drop_chunk()
            return position
        finally:
            self._turns.give()

    def _drop_chunk(self) -> None:
        """Forget what was read ahead: the position is now the kernel's."""
        self._chunk = b""
        self._used = 0

    def _unread_chunk(self) -> None:
        """Give back what was read ahead."""
        ahead = len(self._chunk) - self._used
        if ahead:
            os.lseek(self.raw.fileno(), -ahead, os.SEEK_CUR)
        self._drop_chunk()

    # --- the end of what is written -------------------------------------------------------------------

    async def _write_pending(self) -> None:
        """Write all that is buffered. What could not be written stays, exactly once, also if this is cancelled.

        BlockingIOError where a non-blocking file takes no more.
        """
        pending = self._pending
        while pending:
            done: int | None = 0
            try:
                done = await self.raw.write_some(bytes(pending))
            except asyncio.CancelledError as exc:
                done = getattr(exc, "done", 0)
                raise
            finally:
                del pending[: done or 0]
                self._count_room()
            if done is None:
                raise BlockingIOError(errno.EAGAIN, "write could not complete without blocking", 0)

    def _count_room(self) -> None:
        """Writers keep _room by this."""

    async def flush(self) -> None:
        """Write what is buffered; the kernel's position is the file's afterwards."""
        raise NotImplementedError

    async def fsync(self) -> None:
        """flush(), and what was written, and the file's metadata, are on the disk when this returns."""
        if not await self._write_and_sync(False):
            await self.raw.fsync()

    async def fdatasync(self) -> None:
        """fsync() without metadata that reading does not need, as times."""
        if not await self._write_and_sync(True):
            await self.raw.fdatasync()

    async def _write_and_sync(self, data_only: bool) -> bool:
        """What is buffered is written. Returns whether it is on the disk, too."""
        pending = self._pending
        if pending and not self._turns.held and self.raw.may_write_and_sync(len(pending)):
            await self._turns.take()
            done = 0
            try:
                done, synced = await self.raw.write_and_sync(bytes(pending), data_only)
            except (asyncio.CancelledError, OSError) as exc:
                done = getattr(exc, "done", 0)
                raise
            finally:
                del pending[:done]
                self._count_room()
                self._turns.give()
            if synced:
                return True
        if pending or self._turns.held:
            await self.flush()
        return False

    # --- elsewhere in the file ------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Buffers that pread() or pwrite() would contradict are written, or given back."""
        async with self.lent():
            pass

    async def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; b"" at the end. Neither uses nor moves the position."""
        if self._pending:
            await self._settle()
        return await self.raw.pread(size, offset)

    async def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Write at `offset` at once, returns how many bytes. In mode 'a' Linux appends whatever the offset."""
        if self._pending or self._chunk:
            await self._settle()
        return await self.raw.pwrite(data, offset)

    async def preadv(self, buffers: Sequence[WriteableBuffer], offset: int) -> int:
        """Fill the buffers, one after the other, from `offset`. Returns how many bytes."""
        if self._pending:
            await self._settle()
        return await self.raw.preadv(buffers, offset)

    async def pwritev(self, buffers: Sequence[ReadableBuffer], offset: int) -> int:
        """Write the buffers, one after the other, to `offset`. Returns how many bytes."""
        if self._pending or self._chunk:
            await self._settle()
        return await self.raw.pwritev(buffers, offset)

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[int]:
        """The file descriptor, for what others do with it: close() and what uses the position wait meanwhile.

        Nothing is buffered then.
        """
        await self._turns.take()
        try:
            raw = self._open_raw("I/O operation on closed file")
            await self._write_pending()
            self._unread_chunk()
            async with raw.lent() as fd:
                yield fd
        finally:
            self._turns.give()

    # --- its end --------------------------------------------------------------------------------------

    async def close(self) -> None:
        raw = self.raw
        if raw.closed:
            return
        await self._turns.take()
        try:
            if self.closed:
                return
            try:
                if self._pending:
                    await self._write_to_the_end()
            finally:
                self._forget()
                if not raw.close_at_once():
                    await raw.close()
        finally:
            self._turns.give()

    async def _write_to_the_end(self) -> None:
        """Goes on where it is cancelled, which is raised afterwards: nobody will write the rest later.

        Pipes and terminals may never take it, so there cancelling ends it.
        """
        cancelled = None
        while True:
            try:
                await self._write_pending()
                break
            except asyncio.CancelledError as exc:
                cancelled = exc
                if not self.raw.can_seek():
                    break
        if cancelled:
            raise cancelled

    def _forget(self) -> None:
        """Nothing is served from the buffers any more."""
        self._chunk = b""
        self._used = 0
        self._pending.clear()
        self._room = -1

    def detach(self) -> AsyncFileIO:
        """The file below, which is yours from now on. Blocks if something is to be written still."""
        raw = self.raw
        self.flush_now()
        self._forget()
        self._raw = None
        raw.covered = False
        return raw

    def flush_now(self) -> None:
        """flush(), blocking."""
        if self._pending:
            self.raw.write_now(self._pending)
            self._pending.clear()

    def close_now(self) -> None:
        """close(), blocking: for files that nobody closed."""
        raw = self.raw
        try:
            with contextlib.suppress(OSError):
                self.flush_now()
        finally:
            self._forget()
            raw.close_now()

    def finish(self, owner: object) -> None:
        """`owner` goes away: if nobody closed the file, warn, and close it, blocking."""
        raw = self._raw
        if raw is not None and not raw.closed:
            warn_unclosed(owner, raw)
            self.close_now()

    def __del__(self) -> None:
        if hasattr(self, "covered") and not self.covered:
            self.finish(self)
