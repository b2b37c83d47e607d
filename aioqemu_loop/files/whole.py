"""Whole files, read and written at once."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from typing import TYPE_CHECKING

from aioqemu_loop.files.arguments import as_bytes
from aioqemu_loop.files.engine import Engine, engine_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, StrOrBytesPath

# Up to here a file is opened, written and closed by one job; beyond, in pieces, so that it can be cancelled.
AT_ONCE = 1 << 20  # bytes
PIECE = 64 * 1024  # bytes, where the file does not tell its size
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


async def read_bytes(path: StrOrBytesPath) -> bytes:
    """All that is in the file."""
    engine = engine_of(asyncio.get_running_loop())
    fd = await engine.open(path, os.O_RDONLY)
    try:
        facts = await engine.facts(fd)
        if facts.directory:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        pieces: list[bytes] = []
        left = facts.size
        # One byte more, to see the end if the size is right.
        while piece := await engine.read(fd, left + 1 if left > 0 else PIECE):
            pieces.append(piece)
            left -= len(piece)
            if not left and facts.local:  # elsewhere, as in /proc, files may be longer than they say
                break
    finally:
        await engine.close(fd)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def write_bytes(path: StrOrBytesPath, data: ReadableBuffer) -> int:
    """Make the file, or what was in it, `data`. Returns the number of bytes."""
    view = as_bytes(data)
    engine = engine_of(asyncio.get_running_loop())
    if len(view) <= AT_ONCE:
        await engine.call(_write_file, path, view)
    else:
        await _write_pieces(engine, path, view)
    return len(view)


def _write_file(path: StrOrBytesPath, view: memoryview) -> None:
    fd = os.open(path, FLAGS | os.O_CLOEXEC, 0o666)
    try:
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


async def _write_pieces(engine: Engine, path: StrOrBytesPath, view: memoryview) -> None:
    fd = await engine.open(path, FLAGS, 0o666)
    try:
        while view:
            view = view[await engine.write(fd, view) :]
    finally:
        await engine.close(fd)


async def read_text(
    path: StrOrBytesPath, encoding: str | None = None, errors: str | None = None, newline: str | None = None
) -> str:
    """All that is in the file, decoded; line ends become "\\n", or as `newline` tells open()."""
    encoding = io.text_encoding(encoding)  # type: ignore[attr-defined]
    io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)  # refuses bad arguments
    return io.TextIOWrapper(io.BytesIO(await read_bytes(path)), encoding, errors, newline).read()


async def write_text(
    path: StrOrBytesPath,
    data: str,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> int:
    """Make the file, or what was in it, `data`, encoded; "\\n" becomes what `newline` says. Returns len(data)."""
    if not isinstance(data, str):
        raise TypeError(f"data must be str, not {type(data).__name__}")
    encoding = io.text_encoding(encoding)  # type: ignore[attr-defined]
    encoded = io.BytesIO()
    text = io.TextIOWrapper(encoded, encoding, errors, newline)
    text.write(data)
    text.flush()
    await write_bytes(path, encoded.getvalue())
    return len(data)
