"""The ways to files that are compared, by name: a library, and the loop it runs on.

Each library is one class with the same methods, written as its own documentation would have it. Nothing is imported
before it is asked for: a process that measures one library must not carry the others.
"""

from __future__ import annotations

import asyncio
import importlib.util
import mmap
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 4096  # bytes of a random read
BASELINE = "aiofiles"
FIO = "fio"

ReadAt = Callable[[int], Awaitable[object]]  # BLOCK bytes from an offset
Append = Callable[[bytes], Awaitable[object]]  # the record is on the disk when it returns


class Blocking:
    """Plain system calls: the loop does nothing else meanwhile. What comes without any library at all."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return _at_once(function, *arguments)

    @asynccontextmanager
    async def open(self, path: str, mode: str) -> AsyncIterator[Any]:
        """An object whose read(size), write(data) and seek(offset) are awaited. With the library's own buffering."""
        file = await self.call(open, path, mode)
        try:
            yield _Called(self, file)
        finally:
            await self.call(file.close)

    @asynccontextmanager
    async def reader(self, path: str) -> AsyncIterator[ReadAt]:
        """One per task: libraries without a positional read have to seek."""
        fd = await self.call(os.open, path, os.O_RDONLY)
        try:
            yield lambda offset: self.call(os.pread, fd, BLOCK, offset)
        finally:
            await self.call(os.close, fd)

    @asynccontextmanager
    async def direct_reader(self, path: str) -> AsyncIterator[ReadAt]:
        """The same past the page cache."""
        fd = await self.call(os.open, path, os.O_RDONLY | os.O_DIRECT)
        aligned = [mmap.mmap(-1, BLOCK)]
        try:
            yield lambda offset: self.call(os.preadv, fd, aligned, offset)
        finally:
            await self.call(os.close, fd)

    @asynccontextmanager
    async def log(self, path: str) -> AsyncIterator[Append]:
        """One for all tasks."""
        fd = await self.call(os.open, path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

        def append(record: bytes) -> None:
            os.write(fd, record)
            os.fdatasync(fd)

        try:
            yield lambda record: self.call(append, record)
        finally:
            await self.call(os.close, fd)

    def read_bytes(self, path: str) -> Awaitable[object]:
        return self.call(Path(path).read_bytes)

    def write_bytes(self, path: str, data: bytes) -> Awaitable[object]:
        return self.call(Path(path).write_bytes, data)

    def stat(self, path: str) -> Awaitable[object]:
        return self.call(os.stat, path)

    def mkdir(self, path: str) -> Awaitable[object]:
        return self.call(os.mkdir, path)

    def rmdir(self, path: str) -> Awaitable[object]:
        return self.call(os.rmdir, path)

    def rename(self, path: str, new: str) -> Awaitable[object]:
        return self.call(os.rename, path, new)

    def unlink(self, path: str) -> Awaitable[object]:
        return self.call(os.unlink, path)


async def _at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@dataclass
class _Called:
    """A file object whose methods go by a library's `call`."""

    library: Blocking
    file: Any

    def read(self, size: int = -1) -> Awaitable[Any]:
        return self.library.call(self.file.read, size)

    def write(self, data: bytes) -> Awaitable[Any]:
        return self.library.call(self.file.write, data)

    def seek(self, offset: int) -> Awaitable[Any]:
        return self.library.call(self.file.seek, offset)


class Threads(Blocking):
    """The same system calls by `run_in_executor`, a positional read and an append with its sync in one hop each."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return self.loop.run_in_executor(None, function, *arguments)


class Ours:
    """aioqemu_loop.files."""

    def __init__(self) -> None:
        self.files = importlib.import_module("aioqemu_loop.files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)  # open, read_bytes, stat, ... are what they are called here

    @asynccontextmanager
    async def reader(self, path: str) -> AsyncIterator[ReadAt]:
        async with self.files.open(path, "rb", buffering=0) as file:
            yield lambda offset: file.pread(BLOCK, offset)

    @asynccontextmanager
    async def direct_reader(self, path: str) -> AsyncIterator[ReadAt]:
        aligned = [self.files.aligned_buffer(BLOCK)]
        async with self.files.open(path, "rb", buffering=0, flags=os.O_DIRECT) as file:
            yield lambda offset: file.preadv(aligned, offset)

    @asynccontextmanager
    async def log(self, path: str) -> AsyncIterator[Append]:
        async with self.files.open(path, "ab") as file:

            async def append(record: bytes) -> None:
                await file.write(record)
                await file.fdatasync()

            yield append


class _Seeking:
    """What aiofiles and anyio have in common: no positional read, no fsync."""

    open: Callable[..., AbstractAsyncContextManager[Any]]

    @asynccontextmanager
    async def reader(self, path: str) -> AsyncIterator[ReadAt]:
        async with self.open(path, "rb", buffering=0) as file:

            async def read(offset: int) -> None:
                await file.seek(offset)
                await file.read(BLOCK)

            yield read

    @asynccontextmanager
    async def direct_reader(self, path: str) -> AsyncIterator[ReadAt]:
        aligned = mmap.mmap(-1, BLOCK)
        async with self.open(path, "rb", buffering=0, opener=_open_direct) as file:

            async def read(offset: int) -> None:
                await file.seek(offset)
                await file.readinto(aligned)

            yield read

    @asynccontextmanager
    async def log(self, path: str) -> AsyncIterator[Append]:
        async with self.open(path, "ab", buffering=0) as file:

            async def append(record: bytes) -> None:
                await file.write(record)
                await self.in_thread(os.fdatasync, file.fileno())

            yield append

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def _open_direct(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_DIRECT)


class Aiofiles(_Seeking):
    def __init__(self) -> None:
        self.open = importlib.import_module("aiofiles").open
        calls = importlib.import_module("aiofiles.os")
        self.stat, self.mkdir, self.rmdir = calls.stat, calls.mkdir, calls.rmdir
        self.rename, self.unlink = calls.rename, calls.unlink

    async def read_bytes(self, path: str) -> object:
        async with self.open(path, "rb") as file:
            return await file.read()

    async def write_bytes(self, path: str, data: bytes) -> None:
        async with self.open(path, "wb") as file:
            await file.write(data)


class Anyio(_Seeking):
    def __init__(self) -> None:
        anyio = importlib.import_module("anyio")
        self.path = anyio.Path
        self._open_file = anyio.open_file
        self.in_thread = anyio.to_thread.run_sync

    @asynccontextmanager
    async def open(self, path: str, mode: str, **options: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        async with await self._open_file(path, mode, **options) as file:
            yield file

    def read_bytes(self, path: str) -> Awaitable[object]:
        return self.path(path).read_bytes()  # type: ignore[no-any-return]

    def write_bytes(self, path: str, data: bytes) -> Awaitable[object]:
        return self.path(path).write_bytes(data)  # type: ignore[no-any-return]

    def stat(self, path: str) -> Awaitable[object]:
        return self.path(path).stat()  # type: ignore[no-any-return]

    def mkdir(self, path: str) -> Awaitable[object]:
        return self.path(path).mkdir()  # type: ignore[no-any-return]

    def rmdir(self, path: str) -> Awaitable[object]:
        return self.path(path).rmdir()  # type: ignore[no-any-return]

    def rename(self, path: str, new: str) -> Awaitable[object]:
        return self.path(path).rename(new)  # type: ignore[no-any-return]

    def unlink(self, path: str) -> Awaitable[object]:
        return self.path(path).unlink()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Way:
    library: Callable[[], Any]  # asked for inside a running loop
    loop: str  # of bench.loops
    module: str | None = None  # that it needs
    depths: tuple[int, ...] = ()  # those it makes sense at; none is all


WAYS = {
    "files:io_uring": Way(Ours, "aioqemu:io_uring", "aioqemu_loop.files"),
    "files:epoll": Way(Ours, "aioqemu:epoll", "aioqemu_loop.files"),
    "aiofiles": Way(Aiofiles, "asyncio", "aiofiles"),
    "aiofiles:aioqemu": Way(Aiofiles, "aioqemu", "aiofiles"),
    "anyio": Way(Anyio, "asyncio", "anyio"),
    "threads": Way(Threads, "aioqemu"),
    "blocking": Way(Blocking, "asyncio", depths=(1,)),
}


def why_not(name: str) -> str | None:
    """The reason in words why this way cannot be measured here, or None."""
    if name == FIO:
        return None if shutil.which("fio") else "fio is not on PATH (Debian: fio)"
    module = WAYS[name].module
    return f"{module} is not installed" if module and importlib.util.find_spec(module) is None else None
