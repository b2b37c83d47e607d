"""What `os` does with the file system, awaitable: the same arguments, results and exceptions."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Generic, ParamSpec, Protocol, TypeVar

from aioqemu_loop.files.engine import engine_of

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath, StrPath
    from typing_extensions import Self

P = ParamSpec("P")
Result = TypeVar("Result")
Item = TypeVar("Item")
# Directory entries that are fetched by one job of the executor.
BATCH = 256


async def call(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """function(*args, **kwargs) where it may block."""
    return await engine_of(asyncio.get_running_loop()).call(function, *args, **kwargs)


def awaitable(function: Callable[P, Result]) -> Callable[P, Coroutine[Any, Any, Result]]:
    """The function as a coroutine function, which calls it where it may block."""

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        return await call(function, *args, **kwargs)

    return run


access = awaitable(os.access)
getcwd = awaitable(os.getcwd)
link = awaitable(os.link)
lstat = awaitable(os.lstat)
listdir = awaitable(os.listdir)
makedirs = awaitable(os.makedirs)
mkdir = awaitable(os.mkdir)
readlink = awaitable(os.readlink)
remove = awaitable(os.remove)
removedirs = awaitable(os.removedirs)
rename = awaitable(os.rename)
renames = awaitable(os.renames)
replace = awaitable(os.replace)
rmdir = awaitable(os.rmdir)
statvfs = awaitable(os.statvfs)
symlink = awaitable(os.symlink)
unlink = awaitable(os.unlink)


async def stat(
    path: StrOrBytesPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> os.stat_result:
    """As os.stat()."""
    return await engine_of(asyncio.get_running_loop()).stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def open_fd(path: StrOrBytesPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """As os.open(): a file descriptor, which child processes do not inherit."""
    return await engine_of(asyncio.get_running_loop()).open(path, flags, mode, dir_fd=dir_fd)


class HasFileno(Protocol):
    """A file."""

    def fileno(self) -> int:
        """Its file descriptor."""


def fd_of(file: int | HasFileno) -> int:
    """The file descriptor itself, or that of a file."""
    return file if isinstance(file, int) else file.fileno()


async def fallocate(file: int | HasFileno, offset: int, length: int) -> None:
    """As os.posix_fallocate(): the disk has room for these bytes afterwards, and the file is at least that long."""
    await call(os.posix_fallocate, fd_of(file), offset, length)


async def fadvise(file: int | HasFileno, offset: int, length: int, advice: int) -> None:
    """As os.posix_fadvise(); `advice`: os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_DONTNEED, ..."""
    await call(os.posix_fadvise, fd_of(file), offset, length, advice)


async def in_batches(iterator: Iterator[Item]) -> AsyncIterator[Item]:
    """What a blocking iterator gives, some at a time."""

    def next_batch() -> list[Item]:
        return list(islice(iterator, BATCH))

    while batch := await call(next_batch):
        for item in batch:
            yield item


class Scan(Awaitable["os._ScandirIterator[AnyStr]"], Generic[AnyStr]):
    """What scandir() returns."""

    def __init__(self, path: Any) -> None:
        self._path = path
        self._iterator: os._ScandirIterator[AnyStr] | None = None

    async def _open(self) -> os._ScandirIterator[AnyStr]:
        return await call(os.scandir, self._path)

    def __await__(self) -> Generator[Any, Any, os._ScandirIterator[AnyStr]]:
        return self._open().__await__()

    async def __aiter__(self) -> AsyncIterator[os.DirEntry[AnyStr]]:
        iterator = self._iterator or await self._open()
        with iterator:
            async for entry in in_batches(iterator):
                yield entry

    async def __aenter__(self) -> Self:
        self._iterator = await self._open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._iterator is not None:
            self._iterator.close()


def scandir(path: Any = ".") -> Scan[Any]:
    """The entries of a directory, os.DirEntry each.

    `async for entry in scandir(path)`; leave it early only inside `async with scandir(path) as entries`. Awaited, it
    gives os.scandir()'s own iterator, as aiofiles' does, which blocks.
    """
    return Scan(path)


async def iterdir(path: StrPath = ".") -> AsyncIterator[str]:
    """The names in a directory, one after the other."""
    async with scandir(path) as entries:
        async for entry in entries:
            yield entry.name
