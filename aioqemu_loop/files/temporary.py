"""Temporary files and directories, with the names and parameters of `tempfile` and aiofiles."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aioqemu_loop.files.opening import Opening, open
from aioqemu_loop.files.os_functions import awaitable, call, call_or_undo, call_surely
from aioqemu_loop.files.wrapping import AWAITABLE, WrappedFile

if TYPE_CHECKING:
    from _typeshed import StrPath
    from typing_extensions import Self

gettempdir = awaitable(tempfile.gettempdir)


async def mkdtemp(suffix: Any = None, prefix: Any = None, dir: Any = None) -> Any:
    """As tempfile.mkdtemp(): the path of a new directory. If this is cancelled there is none."""
    return await call_or_undo(os.rmdir, tempfile.mkdtemp, suffix, prefix, dir)


async def mkstemp(suffix: Any = None, prefix: Any = None, dir: Any = None, text: bool = False) -> tuple[int, Any]:
    """As tempfile.mkstemp(): a file descriptor and the path of a new file. If this is cancelled there is none."""

    def undo(made: tuple[int, Any]) -> None:
        os.close(made[0])
        remove(made[1])

    return await call_or_undo(undo, tempfile.mkstemp, suffix, prefix, dir, text)


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: StrPath | None = None,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """A file without a name, gone when it is closed: as tempfile.TemporaryFile(). Await it, or use `async with`."""

    def create(_path: Any, _flags: int) -> int:
        fd, path = tempfile.mkstemp(suffix, prefix, dir)
        os.unlink(path)
        return fd

    opening = open("", mode, buffering, encoding, errors, newline, opener=create)

    async def make() -> Any:
        file = await opening
        lowest(file).name = file.fileno()
        return file

    return Opening(make)


def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: StrPath | None = None,
    delete: bool = True,
    delete_on_close: bool = True,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """A file with a name (its `name`), deleted when it is closed: as tempfile.NamedTemporaryFile().

    Await it, or use `async with`. With delete_on_close=False it is deleted at the end of the `async with`, or when the
    file object goes away; with delete=False never.
    """
    paths: list[str] = []

    def create(_path: Any, _flags: int) -> int:
        fd, path = tempfile.mkstemp(suffix, prefix, dir)
        paths.append(path)
        return fd

    opening = open("", mode, buffering, encoding, errors, newline, opener=create)

    async def make() -> Any:
        try:
            file = await opening
        except BaseException:
            for path in paths:
                await call_surely(remove, path)
            raise
        (path,) = paths
        raw = lowest(file)
        raw.name = path
        file.delete = delete
        if delete and delete_on_close:
            raw.after_close = lambda: remove(path)
        elif delete:
            named.finalizer = weakref.finalize(file, remove, path)
        return file

    named = NamedOpening(make)
    return named


class NamedOpening(Opening[Any]):
    """An Opening whose end deletes a file that closing did not delete."""

    finalizer: Callable[[], Any] | None = None

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(exc_type, exc, traceback)
        finally:
            if self.finalizer is not None:
                await call_surely(self.finalizer)


def remove(path: str) -> None:
    """Delete a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def lowest(file: Any) -> Any:
    """The file without a buffer, of whichever layer `file` is."""
    for attribute in ("buffer", "raw"):
        file = getattr(file, attribute, file)
    return file


class Spool(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
    """The stdlib's, which tells whether it is on the disk already."""

    on_disk = False

    def rollover(self) -> None:
        super().rollover()
        self.on_disk = True


class AsyncSpooledTemporaryFile(WrappedFile):
    """In memory until it is larger than max_size: so long nothing waits, then each call is a job for the executor."""

    def __init__(self, spool: Spool, max_size: int) -> None:
        super().__init__(lambda: spool)
        self._max_size = max_size

    def __getattr__(self, name: str) -> Any:
        if name not in AWAITABLE and name != "fileno":
            return getattr(self.wrapped, name)
        method = getattr(self.wrapped, name)

        async def run(*args: Any) -> Any:
            if self.wrapped.on_disk or self._may_roll_over(name, args):
                return await call(method, *args)
            return method(*args)

        return run

    def _may_roll_over(self, name: str, args: tuple[Any, ...]) -> bool:
        if name == "write" and args and hasattr(args[0], "__len__"):
            # A character may be four bytes.
            longest: int = self.wrapped.tell() + 4 * len(args[0])
            return 0 < self._max_size < longest
        return name in ("fileno", "rollover") or (name in ("writelines", "truncate") and self._max_size > 0)


def SpooledTemporaryFile(
    max_size: int = 0,
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: StrPath | None = None,
    *,
    errors: str | None = None,
) -> Opening[AsyncSpooledTemporaryFile]:
    """A temporary file that stays in memory up to max_size bytes.

    With 0, until rollover() or fileno() is called.
    """

    async def make() -> AsyncSpooledTemporaryFile:
        where: Any = dir
        text: Any = {"encoding": encoding, "newline": newline, "errors": errors}
        spool = Spool(max_size, mode, buffering, suffix=suffix, prefix=prefix, dir=where, **text)
        return AsyncSpooledTemporaryFile(spool, max_size)

    return Opening(make)


class TemporaryDirectory:
    """A directory that is deleted with all that is in it: as tempfile.TemporaryDirectory().

    `async with` gives its name. Awaited, it gives itself, with `name`; close() or cleanup() deletes.
    """

    def __init__(
        self,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: StrPath | None = None,
        ignore_cleanup_errors: bool = False,
        *,
        delete: bool = True,
    ) -> None:
        self._options: dict[str, Any] = {"ignore_cleanup_errors": ignore_cleanup_errors}
        if sys.version_info >= (3, 12):
            self._options["delete"] = delete
        elif not delete:
            raise TypeError("delete=False needs Python 3.12")
        self._where = (suffix, prefix, dir)
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def name(self) -> str:
        """Its path. ValueError before it was made."""
        if self._directory is None:
            raise ValueError("the directory was not made yet")
        return self._directory.name

    async def _make(self) -> Self:
        if self._directory is None:
            make = tempfile.TemporaryDirectory
            self._directory = await call_or_undo(make.cleanup, make, *self._where, **self._options)
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._make().__await__()

    async def __aenter__(self) -> str:
        await self._make()
        return self.name

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._directory is not None
        # Its own end knows `delete`.
        await call_surely(self._directory.__exit__, exc_type, exc, traceback)

    async def cleanup(self) -> None:
        """Delete the directory, and what is in it."""
        if self._directory is not None:
            await call_surely(self._directory.cleanup)

    async def close(self) -> None:
        """cleanup()."""
        await self.cleanup()
