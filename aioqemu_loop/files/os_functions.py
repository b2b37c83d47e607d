"""What `os` does with the file system, awaitable: the same arguments, results and exceptions."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, AnyStr, Generic, ParamSpec, Protocol, TypeVar

from aioqemu_loop.files.engine import Engine, engine_of

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
    return await running_engine().call(function, *args, **kwargs)


async def call_or_undo(
    undo: Callable[[Result], object], function: Callable[..., Result], *args: Any, **kwargs: Any
) -> Result:
    """call(); if this is cancelled and the function has made something all the same, undo(that)."""
    try:
        return await call(function, *args, **kwargs)
    except asyncio.CancelledError as exc:
        if (made := getattr(exc, "result", None)) is not None:
            await call_surely(undo, made)
        raise


async def call_surely(function: Callable[..., Result], *args: Any) -> Result:
    """call() of what cleans up: it happens, whatever becomes of the task."""
    return await running_engine().call_surely(function, *args)


def awaitable(function: Callable[P, Result]) -> Callable[P, Coroutine[Any, Any, Result]]:
    """The function as a coroutine function, which calls it where it may block."""

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        return await call(function, *args, **kwargs)

    return run


access = awaitable(os.access)
getcwd = awaitable(os.getcwd)
listdir = awaitable(os.listdir)
makedirs = awaitable(os.makedirs)
readlink = awaitable(os.readlink)
removedirs = awaitable(os.removedirs)
renames = awaitable(os.renames)
statvfs = awaitable(os.statvfs)


def running_engine() -> Engine:
    """The engine of the running loop."""
    return engine_of(asyncio.get_running_loop())


async def mkdir(path: StrOrBytesPath, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """As os.mkdir()."""
    await running_engine().mkdir(path, mode, dir_fd=dir_fd)


async def rmdir(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """As os.rmdir()."""
    await running_engine().rmdir(path, dir_fd=dir_fd)


async def unlink(path: StrOrBytesPath, *, dir_fd: int | None = None) -> None:
    """As os.unlink()."""
    await running_engine().unlink(path, dir_fd=dir_fd)


async def rename(
    src: StrOrBytesPath, dst: StrOrBytesPath, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """As os.rename(), which replaces what is at `dst`."""
    await running_engine().rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


async def symlink(
    src: StrOrBytesPath, dst: StrOrBytesPath, target_is_directory: bool = False, *, dir_fd: int | None = None
) -> None:
    """As os.symlink()."""
    await running_engine().symlink(src, dst, dir_fd=dir_fd)


async def link(
    src: StrOrBytesPath,
    dst: StrOrBytesPath,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    follow_symlinks: bool = True,
) -> None:
    """As os.link()."""
    if src_dir_fd is None and dst_dir_fd is None and follow_symlinks:
        await running_engine().link(src, dst)
    else:
        directories = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
        await call(os.link, src, dst, **directories, follow_symlinks=follow_symlinks)


remove = unlink
replace = rename


async def stat(
    path: StrOrBytesPath | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> os.stat_result:
    """As os.stat()."""
    return await running_engine().stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)


async def open_fd(path: StrOrBytesPath, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """As os.open(): a file descriptor, which child processes do not inherit."""
    return await running_engine().open(path, flags, mode, dir_fd=dir_fd)


async def lstat(path: StrOrBytesPath, *, dir_fd: int | None = None) -> os.stat_result:
    """As os.lstat()."""
    return await stat(path, dir_fd=dir_fd, follow_symlinks=False)


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
        return await call_or_undo(lambda iterator: iterator.close(), os.scandir, self._path)

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
