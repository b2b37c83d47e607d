"""sendfile(): a file's bytes to a connection, inside the kernel where it can."""

from __future__ import annotations

import asyncio
import io
import os
from typing import Any

from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.os_functions import call
from aioqemu_loop.files.raw import AsyncFileIO
from aioqemu_loop.files.text import AsyncTextIOWrapper


async def sendfile(
    out: asyncio.StreamWriter | asyncio.WriteTransport | int,
    file: Any,
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """Send `count` bytes (None: all) of a binary file, from `offset` on, behind what was written; returns how many.

    `out` is a stream's writer, or a transport; `file` one of ours, or of io's. The file's position is behind what was
    sent afterwards. Without `fallback`, SendfileNotAvailableError where the kernel cannot do it.

    With two file descriptors it is os.sendfile(), awaitable, of at most `count` bytes.
    """
    if isinstance(out, int):
        return await call(os.sendfile, out, file, offset, count)
    if isinstance(file, AsyncTextIOWrapper):
        raise ValueError("files should be opened in binary mode")
    if isinstance(out, asyncio.StreamWriter):
        await out.drain()
        out = out.transport
    loop = asyncio.get_running_loop()
    if not isinstance(file, (AsyncBuffered, AsyncFileIO)):
        return await loop.sendfile(out, file, offset, count, fallback=fallback)
    async with file.lent() as fd:
        with io.FileIO(fd, "rb", closefd=False) as same:
            return await loop.sendfile(out, same, offset, count, fallback=fallback)
