"""Buffered reading. What is in the buffer is served without waiting, and without taking turns if nobody is at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, SupportsIndex

from aioqemu_loop.files.arguments import as_size, as_space
from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.raw import AsyncFileIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Reading(AsyncBuffered):
    """The methods of buffered files that read."""

    def __init__(self, raw: AsyncFileIO, buffer_size: int, read_ahead: int = 0) -> None:
        """`read_ahead`: bytes up to which reads grow while one follows the other; else they are of `buffer_size`."""
        super().__init__(raw, buffer_size)
        self._next_read = buffer_size
        self._read_ahead = max(read_ahead, buffer_size)

    def readable(self) -> bool:
        return self.raw.readable()

    async def read(self, size: SupportsIndex | None = -1) -> bytes:
        """`size` bytes, fewer only at the end of the file; all up to the end by default.

        Of a non-blocking file what is there now; None if that is nothing.
        """
        count = as_size(size)
        end = self._used + count
        if count > 0 and end <= len(self._chunk) and not self._turns.held:
            data = self._chunk[self._used : end]
            self._used = end
            return data
        raw = self.raw
        if count < -1:
            raise ValueError("read length must be non-negative or -1")
        if raw.closed:
            raise ValueError("read of closed file")
        if count < 0 and not (self._pending or self._turns.held):
            rest = raw.rest_now()
            if rest is not None:
                rest = self._chunk[self._used :] + rest
                self._drop_chunk()
                return rest
        await self._turns.take()
        try:
            raw = self._open_raw("read of closed file")
            if count < 0:
                return await self._read_all(raw)  # type: ignore[return-value]
            return await self._read_count(raw, count)  # type: ignore[return-value]
        finally:
            self._turns.give()

    def _take(self, count: int) -> bytes:
        """Up to `count` bytes of what was read ahead."""
        end = self._used + count
        data = self._chunk[self._used : end]
        self._used = min(end, len(self._chunk))
        return data

    def _put_back(self, pieces: list[bytes]) -> None:
        """An operation failed or was cancelled after it had taken these: the next one finds them."""
        self._chunk = b"".join(pieces) + self._chunk[self._used :]
        self._used = 0

    async def _read_all(self, raw: AsyncFileIO) -> bytes | None:
        await self._write_pending()
        pieces = [self._chunk[self._used :]] if self._used < len(self._chunk) else []
        self._drop_chunk()
        try:
            ended = await raw.read_rest(pieces)
        except BaseException:
            self._put_back(pieces)
            raise
        return b"".join(pieces) if pieces or ended else None

    async def _read_count(self, raw: AsyncFileIO, count: int) -> bytes | None:
        data = self._take(count)
        left = count - len(data)
        if not left:
            return data
        await self._write_pending()
        pieces = [data] if data else []
        ended = False
        try:
            while left:
                # Whole buffers need not go through it.
                whole = left - left % self._size
                piece = await (raw.read_some(whole) if whole else self._fill(raw))
                if not piece:
                    ended = piece is not None
                    break
                if not whole:
                    piece = self._take(left)
                pieces.append(piece)
                left -= len(piece)
        except BaseException:
            self._put_back(pieces)
            raise
        return b"".join(pieces) if pieces or ended else None

    async def _fill(self, raw: AsyncFileIO) -> bytes | None:
        """One read into the buffer, which is used up: what is in it then."""
        size = self._next_read
        chunk = await raw.read_some(size)
        self._chunk = chunk or b""
        self._used = 0
        if len(self._chunk) == size < self._read_ahead:
            self._next_read = min(2 * size, self._read_ahead)
        return chunk

    def _drop_chunk(self) -> None:
        super()._drop_chunk()
        self._next_read = self._size

    async def read1(self, size: SupportsIndex | None = -1) -> bytes:
        """Up to `size` bytes with at most one read from the file; by default as many as the buffer holds."""
        count = as_size(size)
        self._open_raw("read of closed file")
        if count < 0:
            count = self._size
        if self._used < len(self._chunk) and not self._turns.held:
            return self._take(count)
        await self._turns.take()
        try:
            raw = self._open_raw("read of closed file")
            if self._used < len(self._chunk):
                return self._take(count)
            if not count:
                return b""
            await self._write_pending()
            if count < self._read_ahead != self._size:
                await self._fill(raw)
                return self._take(count)
            self._drop_chunk()
            return await raw.read_some(count) or b""
        finally:
            self._turns.give()

    async def peek(self, size: SupportsIndex = 0) -> bytes:
        """What is in the buffer, after one read from the file if that is nothing; the position stays.

        `size` is there for io's sake.
        """
        self._open_raw("peek of closed file")
        await self._turns.take()
        try:
            raw = self._open_raw("peek of closed file")
            if self._used == len(self._chunk):
                await self._write_pending()
                await self._fill(raw)
            return self._chunk[self._used :]
        finally:
            self._turns.give()

    async def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer`, less only at the end of the file. Returns how many bytes; None where there are none now."""
        return await self._read_into(as_space(buffer, "readinto"), False)  # type: ignore[return-value]

    async def readinto1(self, buffer: WriteableBuffer) -> int:
        """readinto() with at most one read from the file."""
        return await self._read_into(as_space(buffer, "readinto1"), True)  # type: ignore[return-value]

    async def _read_into(self, space: memoryview, once: bool) -> int | None:
        self._open_raw("readinto of closed file")
        await self._turns.take()
        try:
            raw = self._open_raw("readinto of closed file")
            data = self._take(len(space))
            done = len(data)
            space[:done] = data
            if done == len(space) or (once and done and len(space) - done <= self._size):
                return done
            await self._write_pending()
            try:
                while done < len(space):
                    got = await self._fill_space(raw, space[done:])
                    if not got:
                        return None if got is None and not done else done
                    done += got
                    if once:
                        break
            except BaseException:
                self._put_back([bytes(space[:done])])
                raise
            return done
        finally:
            self._turns.give()

    async def _fill_space(self, raw: AsyncFileIO, space: memoryview) -> int | None:
        """One read: into `space` if that is large, else by the buffer."""
        if len(space) > self._size:
            self._drop_chunk()
            return await raw.read_some_into(space)
        if await self._fill(raw) is None:
            return None
        data = self._take(len(space))
        space[: len(data)] = data
        return len(data)

    async def readline(self, size: SupportsIndex | None = -1) -> bytes:
        """Up to the next b"\\n", at most `size` bytes; b"" at the end of the file."""
        if size == -1 and not self._turns.held:
            end = self._chunk.find(b"\n", self._used) + 1
            if end:
                line = self._chunk[self._used : end]
                self._used = end
                return line
        limit = as_size(size)
        self._open_raw("readline of closed file")
        await self._turns.take()
        try:
            return await self._read_line(limit)
        finally:
            self._turns.give()

    async def __anext__(self) -> bytes:
        end = self._chunk.find(b"\n", self._used) + 1
        if end and not self._turns.held:
            line = self._chunk[self._used : end]
            self._used = end
            return line
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def _read_line(self, limit: int) -> bytes:
        raw = self._open_raw("readline of closed file")
        pieces: list[bytes] = []
        left = limit
        try:
            while True:
                end = self._chunk.find(b"\n", self._used) + 1
                count = (end or len(self._chunk)) - self._used
                if 0 <= left <= count:
                    count, end = left, end or -1
                if count:
                    pieces.append(self._take(count))
                if end:
                    break
                left -= count if left > 0 else 0
                await self._write_pending()
                if not await self._fill(raw):
                    break
        except BaseException:
            self._put_back(pieces)
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class AsyncBufferedReader(Reading):
    """A file that is read, with a buffer: the methods of io.BufferedReader, awaitable, and pread() and preadv()."""

    async def flush(self) -> None:
        """Nothing: there is nothing to be written."""
        await self.raw.flush()
