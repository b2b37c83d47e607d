"""Files without a buffer: the kernel's file with its position, as io.FileIO."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, SupportsIndex

from aioqemu_loop.files.arguments import as_bytes, as_offset, as_size, as_space
from aioqemu_loop.files.base import AsyncFile
from aioqemu_loop.files.engine import Engine
from aioqemu_loop.files.rounds import Rounds
from aioqemu_loop.files.turns import Turns

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# Bytes that readall() asks for where the file's size says nothing, and that readline() looks at.
PIECE = 64 * 1024
LINE_PIECE = 8 * 1024


class AsyncFileIO(AsyncFile[bytes]):
    """A file without a buffer: one call to the kernel for each method, so reads and writes may be short.

    Reads and writes at the file's position take turns; pread(), pwrite() and their kin, which have positions of their
    own, run side by side. Made by files.open(..., buffering=0).
    """

    def __init__(
        self,
        engine: Engine,
        fd: int,
        name: str | bytes | int,
        mode: str,
        *,
        closefd: bool = True,
        buffer_size: int,
        local: bool = False,
    ) -> None:
        """`local`: a regular file of a local file system."""
        self._engine = engine
        self._fd = fd
        self.name = name
        self._mode = mode
        self._closefd = closefd
        self.buffer_size = buffer_size  # what suits the file, bytes
        self._readable = "r" in mode or "+" in mode
        self._writable = "r" not in mode or "+" in mode
        self.local = local
        self._can_seek: bool | None = local or None  # None: not known yet
        self._turns = Turns()
        self._syncs: Rounds | None = None
        self._data_syncs: Rounds | None = None
        self._users = 0  # operations that the kernel or threads are at
        self._unused: asyncio.Future[None] | None = None  # who closes waits here until there are none
        self.after_close: Callable[[], None] | None = None  # called where it may block
        self.covered = False  # a buffered file is on top, which looks after its end

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._fd < 0

    @property
    def closefd(self) -> bool:
        """Whether close() closes the file descriptor."""
        return self._closefd

    @property
    def mode(self) -> str:
        """As io.FileIO tells it: 'rb', 'rb+', 'wb', 'wb+' (from Python 3.15 on), 'ab', 'ab+', 'xb' or 'xb+'."""
        return self._mode

    def __repr__(self) -> str:
        kind = f"{type(self).__module__.rpartition('.')[0]}.{type(self).__name__}"
        if self.closed:
            return f"<{kind} [closed]>"
        return f"<{kind} name={self.name!r} mode={self.mode!r} closefd={self._closefd}>"

    def fileno(self) -> int:
        """The file descriptor. ValueError if closed."""
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        self.fileno()
        return self._readable

    async def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.can_write()

    def can_write(self) -> bool:
        """writable(), at once."""
        self.fileno()
        return self._writable

    async def seekable(self) -> bool:
        """Whether it has a position that can be set: pipes and terminals have not."""
        return self.can_seek()

    def can_seek(self) -> bool:
        """seekable(), at once."""
        fd = self.fileno()
        if self._can_seek is None:
            try:
                os.lseek(fd, 0, os.SEEK_CUR)
            except OSError:
                self._can_seek = False
            else:
                self._can_seek = True
        return self._can_seek

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fileno())

    def _reading_fd(self) -> int:
        fd = self.fileno()
        if not self._readable:
            raise io.UnsupportedOperation("File not open for reading")
        return fd

    def _writing_fd(self) -> int:
        fd = self.fileno()
        if not self._writable:
            raise io.UnsupportedOperation("File not open for writing")
        return fd

    def _leave(self) -> None:
        """One operation less; the last one wakes who wants to close."""
        self._users -= 1
        if not self._users and self._unused is not None and not self._unused.done():
            self._unused.set_result(None)

    # --- at the file's position, for those who have the turn ------------------------------------------

    async def read_some(self, size: int) -> bytes | None:
        """One read. None where a non-blocking file has nothing, b"" at the end."""
        fd = self._reading_fd()
        self._users += 1
        try:
            return await self._engine.read(fd, size)
        except BlockingIOError:
            return None
        finally:
            self._leave()

    async def read_some_into(self, space: memoryview) -> int | None:
        """read_some(), into memory that is there."""
        fd = self._reading_fd()
        self._users += 1
        try:
            return await self._engine.readinto(fd, space)
        except BlockingIOError:
            return None
        finally:
            self._leave()

    def rest_now(self) -> bytes | None:
        """All up to the end, if that is to be had at once; else None, and nothing was read."""
        return self._engine.rest_now(self._reading_fd())

    async def read_rest(self, pieces: list[bytes]) -> bool:
        """All up to the end, appended to `pieces`: there they are also if this fails or is cancelled.

        False if a non-blocking file had nothing before the end came.
        """
        fd = self._reading_fd()
        left = 0
        if self.can_seek():
            self._users += 1
            try:
                left = max(0, (await self._engine.facts(fd)).size - os.lseek(fd, 0, os.SEEK_CUR))
            finally:
                self._leave()
        while True:
            # One byte more, to see the end if the size is right.
            piece = await self.read_some(left + 1 if left > 0 else PIECE)
            if not piece:
                return piece is not None
            pieces.append(piece)
            left -= len(piece)
            if not left and self.local:  # elsewhere, as in /proc, files may be longer than they say
                return True

    async def write_some(self, data: ReadableBuffer) -> int | None:
        """One write. None where a non-blocking file takes nothing. Cancelled, it tells CancelledError.done."""
        fd = self._writing_fd()
        self._users += 1
        try:
            return await self._engine.write(fd, data)
        except BlockingIOError:
            return None
        finally:
            self._leave()

    def may_write_and_sync(self, size: int) -> bool:
        """Whether write_and_sync() is better than one after the other.

        So it is where each would be a call of a thread, nobody else syncs, and it is not so much that it had better go
        in pieces.
        """
        idle = not any(rounds and rounds.under_way for rounds in (self._syncs, self._data_syncs))
        return idle and self.local and size <= PIECE and self._engine.syncs_by_thread(self.fileno())

    async def write_and_sync(self, data: bytes, data_only: bool) -> tuple[int, bool]:
        """One write and a sync, if it was whole: how many bytes, and whether they are on the disk.

        CancelledError and OSError may have the number as `done`.
        """
        fd = self._writing_fd()
        self._users += 1
        try:
            return await self._engine.write_and_sync(fd, data, data_only)
        finally:
            self._leave()

    async def move(self, offset: int, whence: int) -> int:
        """The new position. Only the end may have to be asked for on other machines."""
        fd = self.fileno()
        if whence in (os.SEEK_SET, os.SEEK_CUR) or (whence == os.SEEK_END and self.local):
            return os.lseek(fd, offset, whence)
        self._users += 1
        try:
            return await self._engine.call(os.lseek, fd, offset, whence)
        finally:
            self._leave()

    def position(self) -> int:
        """The kernel's position."""
        return os.lseek(self.fileno(), 0, os.SEEK_CUR)

    async def cut(self, size: int) -> int:
        """Make the file `size` bytes long."""
        fd = self._writing_fd()
        self._users += 1
        try:
            await self._engine.call(os.ftruncate, fd, size)
        finally:
            self._leave()
        return size

    # --- at the file's position -----------------------------------------------------------------------

    async def read(self, size: SupportsIndex | None = -1) -> bytes | None:
        """Up to `size` bytes, or all up to the end; None where a non-blocking file has nothing now."""
        count = as_size(size)
        if count < 0:
            return await self.readall()
        self._reading_fd()
        await self._turns.take()
        try:
            return await self.read_some(count)
        finally:
            self._turns.give()

    async def readall(self) -> bytes | None:
        """All up to the end; None where a non-blocking file has nothing now."""
        self._reading_fd()
        pieces: list[bytes] = []
        await self._turns.take()
        try:
            ended = await self.read_rest(pieces)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError, ValueError):
                os.lseek(self.fileno(), -sum(map(len, pieces)), os.SEEK_CUR)
            raise
        finally:
            self._turns.give()
        return b"".join(pieces) if pieces or ended else None

    async def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Fill `buffer` from its start, as far as it goes; returns how many bytes, None where there are none now."""
        space = as_space(buffer, "readinto")
        self._reading_fd()
        await self._turns.take()
        try:
            return await self.read_some_into(space)
        finally:
            self._turns.give()

    async def readline(self, size: SupportsIndex | None = -1) -> bytes:
        """Up to the next b"\\n", at most `size` bytes."""
        limit = as_size(size)
        self._reading_fd()
        await self._turns.take()
        try:
            return await (self._seek_line(limit) if self.can_seek() else self._await_line(limit))
        finally:
            self._turns.give()

    async def _seek_line(self, limit: int) -> bytes:
        """A line, without moving the position before it is known where it ends."""
        start = self.position()
        line = b""
        while limit < 0 or len(line) < limit:
            piece = await self.pread(LINE_PIECE if limit < 0 else min(LINE_PIECE, limit - len(line)), start + len(line))
            end = piece.find(b"\n") + 1
            line += piece[:end] if end else piece
            if end or not piece:
                break
        os.lseek(self.fileno(), start + len(line), os.SEEK_SET)
        return line

    async def _await_line(self, limit: int) -> bytes:
        """A line from a pipe or terminal, byte by byte: what follows it must stay there."""
        line = bytearray()
        while (limit < 0 or len(line) < limit) and not line.endswith(b"\n"):
            byte = await self.read_some(1)
            if not byte:
                break
            line += byte
        return bytes(line)

    async def write(self, data: ReadableBuffer) -> int | None:
        """Write at the position (at the end, in mode 'a'). Returns how many bytes, which may be fewer than there are;
        None where a non-blocking file takes none now."""
        view = as_bytes(data)
        self._writing_fd()
        await self._turns.take()
        try:
            return await self.write_some(view)
        finally:
            self._turns.give()

    async def seek(self, offset: SupportsIndex, whence: int = os.SEEK_SET) -> int:
        """Set the position; returns it, from the file's start."""
        self.fileno()
        await self._turns.take()
        try:
            return await self.move(as_offset(offset), whence)
        finally:
            self._turns.give()

    async def tell(self) -> int:
        """The position, bytes from the start."""
        return self.position()

    async def truncate(self, size: SupportsIndex | None = None) -> int:
        """Make the file `size` bytes long, or end at the position, which stays. Returns the size."""
        self._writing_fd()
        await self._turns.take()
        try:
            return await self.cut(self.position() if size is None else as_offset(size))
        finally:
            self._turns.give()

    # --- elsewhere in the file ------------------------------------------------------------------------

    async def pread(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; b"" at the end. Neither uses nor moves the position."""
        fd = self._reading_fd()
        check_offset(offset)
        self._users += 1
        try:
            return await self._engine.read(fd, size, offset)
        finally:
            self._leave()

    async def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Write at `offset`, returns how many bytes. In mode 'a' Linux appends whatever the offset."""
        fd = self._writing_fd()
        check_offset(offset)
        view = as_bytes(data)
        self._users += 1
        try:
            return await self._engine.write(fd, view, offset)
        finally:
            self._leave()

    async def preadv(self, buffers: Sequence[WriteableBuffer], offset: int) -> int:
        """Fill the buffers, one after the other, from `offset`. Returns how many bytes."""
        fd = self._reading_fd()
        check_offset(offset)
        self._users += 1
        try:
            return await self._engine.readv(fd, buffers, offset)
        finally:
            self._leave()

    async def pwritev(self, buffers: Sequence[ReadableBuffer], offset: int) -> int:
        """Write the buffers, one after the other, to `offset`. Returns how many bytes."""
        fd = self._writing_fd()
        check_offset(offset)
        self._users += 1
        try:
            return await self._engine.writev(fd, buffers, offset)
        finally:
            self._leave()

    async def fsync(self) -> None:
        """What was written, and the file's metadata, are on the disk when this returns."""
        fd = self.fileno()
        if self._syncs is None:
            self._syncs = Rounds(lambda: self._engine.fsync(fd))
        self._users += 1
        try:
            await self._syncs.join()
        finally:
            self._leave()

    async def fdatasync(self) -> None:
        """fsync() without metadata that reading does not need, as times."""
        fd = self.fileno()
        if self._data_syncs is None:
            self._data_syncs = Rounds(lambda: self._engine.fdatasync(fd))
        self._users += 1
        try:
            await self._data_syncs.join()
        finally:
            self._leave()

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[int]:
        """The file descriptor, for what others do with it: close() and what uses the position wait meanwhile."""
        await self._turns.take()
        try:
            fd = self.fileno()
            self._users += 1
            try:
                yield fd
            finally:
                self._leave()
        finally:
            self._turns.give()

    # --- its end --------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Nothing: there is no buffer."""
        self._check_open()

    def close_at_once(self) -> bool:
        """close(), if that does not have to wait for anything; else False."""
        fd = self._fd
        if fd < 0 or self._users or self.after_close is not None or not self._closefd:
            return False
        self._fd = -1  # also where closing fails
        if not self._engine.close_now(fd):
            self._fd = fd
            return False
        return True

    async def close(self) -> None:
        """Operations that are under way end first: their file descriptor must not become another file's. One who is
        cancelled while it waits for those of a pipe or terminal leaves it open."""
        if self._fd < 0 or self.close_at_once():
            return
        can_seek = self.can_seek()
        fd, self._fd = self._fd, -1
        cancelled = None
        while self._users:
            self._unused = asyncio.get_running_loop().create_future()
            try:
                await self._unused
            except asyncio.CancelledError as exc:
                if not can_seek:  # the one who reads a pipe may do so for ever
                    self._fd = fd
                    raise
                cancelled = exc
        try:
            if self._closefd:
                await self._engine.close(fd)
        finally:
            if self.after_close is not None:
                await self._engine.call_surely(self.after_close)
        if cancelled:
            raise cancelled

    def write_now(self, data: bytes | bytearray) -> None:
        """Blocks until it is written: for files that nobody closed."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._writing_fd(), view) :]

    def close_now(self) -> None:
        """Blocks: for files that nobody closed."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._closefd:
            os.close(fd)
        if self.after_close is not None:
            self.after_close()

    def __del__(self) -> None:
        if self._fd >= 0 and not self.covered:
            warn_unclosed(self, self)
            self.close_now()


def warn_unclosed(file: object, raw: AsyncFileIO) -> None:
    """ResourceWarning, as for io's files."""
    if raw.closefd:
        warnings.warn(f"unclosed file {file!r}", ResourceWarning, stacklevel=2, source=file)


def check_offset(offset: int) -> None:
    """A negative one is refused as the kernel would: the engine means the file's position by it."""
    if offset < 0:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
