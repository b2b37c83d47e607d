"""Text over a buffered binary file, as io.TextIOWrapper."""

from __future__ import annotations

import codecs
import io
import os
from typing import SupportsIndex

from aioqemu_loop.files.arguments import as_size, type_name
from aioqemu_loop.files.base import AsyncFile
from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.text_positions import TextPosition, locate
from aioqemu_loop.files.turns import Turns

# Bytes that are decoded at a time, at least: io's number, because what is written after reading goes behind them.
CHUNK = 8192
# Their encoders keep no state, so str.encode() does it.
STATELESS = {"utf-8", "ascii", "iso8859-1"}


class AsyncTextIOWrapper(AsyncFile[str]):
    """A text file: the methods of io.TextIOWrapper, awaitable. Made by files.open().

    tell() works while the lines are iterated over, too. What was written goes to the buffered file below at once.
    """

    def __init__(
        self,
        buffer: AsyncBuffered,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool = False,
        write_through: bool = False,
    ) -> None:
        """Takes over `buffer`. Arguments, and their errors, are io.TextIOWrapper's."""
        model = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
        self._encoding = model.encoding
        self._errors = model.errors or "strict"
        self._buffer: AsyncBuffered | None = buffer
        buffer.covered = True
        self.mode = buffer.mode
        self._line_buffering = line_buffering
        self._write_through = write_through
        self._can_seek = buffer.can_seek()
        self._turns = Turns()
        codec = codecs.lookup(self._encoding)
        self._set_newline(newline)
        self._decoder = self._make_decoder(codec) if buffer.readable() else None
        self._encoder = codec.incrementalencoder(self._errors) if buffer.can_write() else None
        self._encodes_itself = codec.name in STATELESS
        # write() need only encode and hand on.
        self._only_writes = self._encodes_itself and not (self._decoder or line_buffering or write_through)
        if self._encoder and self._can_seek and buffer.position():
            self._encoder.setstate(0)  # no byte order mark in the middle
        self._drop_decoded()
        self._bytes_per_character = 0.0

    def _set_newline(self, newline: str | None) -> None:
        self._universal = not newline
        self._translates = newline is None
        # What ends a line as readline() sees it; None: any of the three.
        self._line_end = None if newline == "" else newline or "\n"
        self._written_newline = newline if newline in ("\r", "\r\n") else None

    def _make_decoder(self, codec: codecs.CodecInfo) -> codecs.IncrementalDecoder:
        decoder = codec.incrementaldecoder(self._errors)
        if not self._universal:
            return decoder
        return io.IncrementalNewlineDecoder(decoder, self._translates)  # type: ignore[return-value]

    def _drop_decoded(self) -> None:
        """Forget what was decoded ahead."""
        self._decoded = ""
        self._used = 0
        # The decoder's flags before, and the bytes of, what is in _decoded. None: it is empty.
        self._snapshot: tuple[int, bytes] | None = None

    # --- what it is -----------------------------------------------------------------------------------

    @property
    def buffer(self) -> AsyncBuffered:
        """The binary file below. ValueError once it was detached."""
        if self._buffer is None:
            raise ValueError("underlying buffer has been detached")
        return self._buffer

    @property
    def closed(self) -> bool:
        return self.buffer.closed

    @property
    def name(self) -> str | bytes | int:
        """What was opened: a path or a file descriptor."""
        return self.buffer.name

    @property
    def encoding(self) -> str:
        return self._encoding

    @property
    def errors(self) -> str:
        return self._errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The line ends seen so far, where they are translated or all looked for."""
        self.buffer  # noqa: B018 - refuses what was detached
        return getattr(self._decoder, "newlines", None)

    @property
    def line_buffering(self) -> bool:
        """Whether what is written is flushed at each line end."""
        return self._line_buffering

    @property
    def write_through(self) -> bool:
        """Whether what is written is flushed at once."""
        return self._write_through

    def __repr__(self) -> str:
        kind = f"{type(self).__module__.rpartition('.')[0]}.{type(self).__name__}"
        name = "" if self._buffer is None else f" name={self.name!r}"
        return f"<{kind}{name} mode={self.mode!r} encoding={self.encoding!r}>"

    def fileno(self) -> int:
        """The file descriptor. ValueError if closed."""
        return self.buffer.fileno()

    async def readable(self) -> bool:
        """Whether it was opened for reading. Awaitable, as aiofiles' is for text files."""
        return self.buffer.readable()

    async def writable(self) -> bool:
        """Whether it was opened for writing."""
        return await self.buffer.writable()

    async def seekable(self) -> bool:
        """Whether it has a position that can be set: pipes and terminals have not."""
        return await self.buffer.seekable()

    async def isatty(self) -> bool:
        """Whether it is a terminal."""
        return await self.buffer.isatty()

    def _reader(self) -> codecs.IncrementalDecoder:
        """The decoder of an open file that is read."""
        self._check_open()
        if self._decoder is None:
            raise io.UnsupportedOperation("not readable")
        return self._decoder

    # --- reading --------------------------------------------------------------------------------------

    async def read(self, size: SupportsIndex | None = -1) -> str:
        """`size` characters, fewer only at the end of the file; all up to the end by default."""
        count = as_size(size)
        end = self._used + count
        if count > 0 and end <= len(self._decoded) and not self._turns.held:
            text = self._decoded[self._used : end]
            self._used = end
            return text
        self._reader()
        await self._turns.take()
        try:
            decoder = self._reader()
            return await (self._read_all(decoder) if count < 0 else self._read_count(decoder, count))
        finally:
            self._turns.give()

    async def _read_all(self, decoder: codecs.IncrementalDecoder) -> str:
        data = await self.buffer.read()
        if data is None:  # a non-blocking file
            raise BlockingIOError("Read returned None.")
        rest = decoder.decode(data, final=True)
        text = self._decoded[self._used :] + rest
        self._drop_decoded()
        return text

    def _take(self, count: int) -> str:
        """Up to `count` of the characters that were decoded ahead."""
        end = self._used + count
        text = self._decoded[self._used : end]
        self._used = min(end, len(self._decoded))
        return text

    async def _read_count(self, decoder: codecs.IncrementalDecoder, count: int) -> str:
        chunks = Chunks(self)
        text = self._take(count)
        pieces = [text]
        left = count - len(text)
        try:
            while left > 0:
                more = await self._decode_chunk(decoder, chunks, left)
                text = self._take(left)
                pieces.append(text)
                left -= len(text)
                if not more:
                    break
        except BaseException:
            chunks.put_back()
            raise
        return "".join(pieces)

    async def _decode_chunk(self, decoder: codecs.IncrementalDecoder, chunks: Chunks, hint: int = 0) -> bool:
        """Decode the next bytes, after what was decoded is used up. False at the end of the file."""
        size = max(CHUNK, int(max(self._bytes_per_character, 1.0) * hint))
        # Held back from the last chunk: part of what comes now.
        held, flags = decoder.getstate() if self._can_seek else (b"", 0)
        data = await self.buffer.read1(size)
        text = decoder.decode(data, not data)
        self._bytes_per_character = len(data) / len(text) if text else 0.0
        self._decoded = text
        self._used = 0
        self._snapshot = (flags, held + data)
        chunks.add(text, flags, held, data)
        return bool(data)

    async def readline(self, size: SupportsIndex | None = -1) -> str:
        """Up to the next line end, at most `size` characters; "" at the end of the file."""
        if size == -1 and self._line_end is not None and not self._turns.held:
            end = self._decoded.find(self._line_end, self._used)
            if end >= 0:
                end += len(self._line_end)
                line = self._decoded[self._used : end]
                self._used = end
                return line
        limit = as_size(size)
        self._reader()
        await self._turns.take()
        try:
            return await self._read_line(self._reader(), limit)
        finally:
            self._turns.give()

    async def __anext__(self) -> str:
        if self._line_end == "\n" and not self._turns.held:
            end = self._decoded.find("\n", self._used) + 1
            if end:
                line = self._decoded[self._used : end]
                self._used = end
                return line
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def _read_line(self, decoder: codecs.IncrementalDecoder, limit: int) -> str:
        chunks = Chunks(self)
        pieces: list[str] = []
        left = limit
        more = True
        try:
            while True:
                end = self._find_line_end(pieces[-1][-1:] if pieces else "")
                count = (end or len(self._decoded)) - self._used
                limited = 0 <= left <= count
                pieces.append(self._take(left if limited else count))
                if end or limited:
                    break
                if not more:
                    self._drop_decoded()
                    break
                left -= count if left > 0 else 0
                more = await self._decode_chunk(decoder, chunks)
        except BaseException:
            chunks.put_back()
            raise
        return "".join(pieces)

    def _find_line_end(self, before: str) -> int:
        """Where in _decoded the line ends; 0 if that is not in sight. `before`: the character before _used."""
        text, start = self._decoded, self._used
        if self._line_end == "\r\n" and before == "\r" and text.startswith("\n", start):
            return start + 1
        if self._line_end is not None:
            end = text.find(self._line_end, start)
            return end + len(self._line_end) if end >= 0 else 0
        feed, ret = text.find("\n", start), text.find("\r", start)
        if ret < 0 or 0 <= feed < ret:
            return feed + 1
        return ret + (2 if feed == ret + 1 else 1)

    # --- writing --------------------------------------------------------------------------------------

    async def write(self, text: str) -> int:
        """Encodes and buffers; flushes where a line ends, if it is line-buffered. Returns len(text)."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type_name(text)}")
        if self._only_writes and self._buffer is not None and not self._turns.held:
            translated = text.replace("\n", self._written_newline) if self._written_newline else text
            if self._buffer.put(translated.encode(self._encoding, self._errors)):
                return len(text)
        self._check_open()
        if self._encoder is None:
            raise io.UnsupportedOperation("not writable")
        await self._turns.take()
        try:
            self._check_open()
            await self._write(text)
        finally:
            self._turns.give()
        return len(text)

    async def _write(self, text: str) -> None:
        flushes = self._write_through or (self._line_buffering and ("\n" in text or "\r" in text))
        if self._written_newline:
            text = text.replace("\n", self._written_newline)
        if self._encodes_itself:
            await self.buffer.write(text.encode(self._encoding, self._errors))
        else:
            assert self._encoder is not None
            state = self._encoder.getstate()
            try:
                await self.buffer.write(self._encoder.encode(text))
            except BaseException:
                self._encoder.setstate(state)  # a byte order mark may be still to be written
                raise
        if self._snapshot is not None:
            self._drop_decoded()
        if self._decoder is not None:
            self._decoder.reset()
        if flushes:
            await self.buffer.flush()

    async def flush(self) -> None:
        """Write what is buffered."""
        self._check_open()
        await self.buffer.flush()

    async def truncate(self, size: SupportsIndex | None = None) -> int:
        """Make the file `size` bytes long, or end at the position. Returns the size."""
        self._check_open()
        await self._turns.take()
        try:
            await self.buffer.flush()
            return await self.buffer.truncate(size)
        finally:
            self._turns.give()

    # --- the position ---------------------------------------------------------------------------------

    async def tell(self) -> int:
        """The position: a number for seek(), of which only 0 has a meaning of its own."""
        self._check_open()
        await self._turns.take()
        try:
            return await self._tell()
        finally:
            self._turns.give()

    async def _tell(self) -> int:
        self._check_open()
        if not self._can_seek:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        await self.buffer.flush()
        position = self.buffer.position()
        if self._decoder is None or self._snapshot is None:
            return position
        flags, data = self._snapshot
        state = self._decoder.getstate()
        try:
            return locate(self._decoder, position - len(data), flags, data, self._used).cookie()
        finally:
            self._decoder.setstate(state)

    async def seek(self, cookie: int, whence: int = os.SEEK_SET) -> int:
        """To what tell() told; or to the start, the end (whence 2), or to where it is (whence 1), by a cookie of 0."""
        self._check_open()
        await self._turns.take()
        try:
            self._check_open()
            if not self._can_seek:
                raise io.UnsupportedOperation("underlying stream is not seekable")
            if whence == os.SEEK_CUR:
                if cookie:
                    raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
                cookie = await self._tell()
            elif whence == os.SEEK_END:
                if cookie:
                    raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
                position = await self._seek_bytes(0, os.SEEK_END)
                if self._decoder:
                    self._decoder.reset()
                return position
            elif whence != os.SEEK_SET:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie!r}")
            await self._seek_cookie(cookie)
            return cookie
        finally:
            self._turns.give()

    async def _seek_bytes(self, offset: int, whence: int) -> int:
        """Set the binary file's position, and the encoder's state."""
        await self.buffer.flush()
        position = await self.buffer.seek(offset, whence)
        self._drop_decoded()
        self._reset_encoder(at_start=position == 0)
        return position

    def _reset_encoder(self, at_start: bool) -> None:
        if self._encoder is None:
            return
        if at_start:
            self._encoder.reset()
        else:
            self._encoder.setstate(0)

    async def _seek_cookie(self, cookie: int) -> None:
        where = TextPosition.of(cookie)
        await self._seek_bytes(where.start, os.SEEK_SET)
        self._reset_encoder(at_start=cookie == 0)
        if self._decoder and not cookie:
            self._decoder.reset()
        elif self._decoder:
            self._decoder.setstate((b"", where.flags))
            self._snapshot = (where.flags, b"")
        if self._decoder and where.skip:
            data = await self.buffer.read(where.feed)
            self._decoded = self._decoder.decode(data, where.need_end)
            self._snapshot = (where.flags, data)
            if len(self._decoded) < where.skip:
                raise OSError("can't restore logical file position")
            self._used = where.skip

    # --- its end --------------------------------------------------------------------------------------

    async def close(self) -> None:
        if self.closed:
            return
        await self._turns.take()
        try:
            await self.buffer.close()
        finally:
            self._drop_decoded()
            self._turns.give()

    def detach(self) -> AsyncBuffered:
        """The binary file below, which is yours from now on. Blocks if something is to be written still."""
        buffer = self.buffer
        buffer.flush_now()
        self._drop_decoded()
        self._buffer = None
        buffer.covered = False
        return buffer

    def __del__(self) -> None:
        buffer = getattr(self, "_buffer", None)
        if buffer is not None:
            buffer.finish(self)


class Chunks:
    """What one operation on a text file has taken, so that it can be undone if it fails or is cancelled on the way."""

    __slots__ = ("_before", "_data", "_file", "_texts")

    def __init__(self, file: AsyncTextIOWrapper) -> None:
        self._file = file
        self._before = (file._decoded, file._used, file._snapshot)
        self._texts: list[str] = []
        self._data: list[bytes] = []

    def add(self, text: str, flags: int, held: bytes, data: bytes) -> None:
        """A chunk that was decoded."""
        if not self._texts and self._before[2] is None:
            self._before = ("", 0, (flags, held))
        self._texts.append(text)
        self._data.append(data)

    def put_back(self) -> None:
        """The file's state is as before, with more decoded ahead."""
        decoded, used, snapshot = self._before
        self._file._decoded = decoded + "".join(self._texts)
        self._file._used = used
        self._file._snapshot = snapshot and (snapshot[0], snapshot[1] + b"".join(self._data))
