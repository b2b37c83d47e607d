"""files.open(): the arguments of io.open(), and the layers that come of them."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, overload

from aioqemu_loop.files.arguments import check_buffering, type_name
from aioqemu_loop.files.buffered import AsyncBuffered
from aioqemu_loop.files.engine import Engine, engine_of
from aioqemu_loop.files.raw import AsyncFileIO
from aioqemu_loop.files.reader import AsyncBufferedReader
from aioqemu_loop.files.text import AsyncTextIOWrapper
from aioqemu_loop.files.writer import AsyncBufferedRandom, AsyncBufferedWriter

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from _typeshed import (
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
    )

    from aioqemu_loop.files.kinds import Facts

    FilePath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int
    Opener: TypeAlias = Callable[[Any, int], int]


class Closable(Protocol):
    """What Opening can hold."""

    def close(self) -> Coroutine[Any, Any, None]:
        """Free what it holds."""


File = TypeVar("File", bound=Closable)
# Bytes. What lines are read from grows up to this: fewer calls, and it still fits the processor's cache.
READ_AHEAD = 128 * 1024
BUFFER_MAX = 8 << 20  # bytes; some file systems tell more than makes sense


class Opening(Awaitable[File], Generic[File]):
    """What files.open() returns: `file = await ...`, or `async with ... as file`, which closes it."""

    def __init__(self, make: Callable[[], Awaitable[File]]) -> None:
        self._make = make
        self._file: File | None = None

    def __await__(self) -> Generator[Any, Any, File]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> File:
        if self._file is None:
            self._file = await self._make()
        return self._file

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            await file.close()


class Mode(NamedTuple):
    """A mode, taken apart."""

    text: bool
    main: str  # one of "rwax"
    updating: bool
    raw: str  # for AsyncFileIO: "rb", "rb+", "wb", ...
    flags: int  # for open(2)

    @classmethod
    def of(cls, mode: str) -> Mode:
        """Raises what io.open() raises."""
        if not isinstance(mode, str):
            raise TypeError(f"open() argument 'mode' must be str, not {type_name(mode)}")
        return cls._parse(mode)

    @classmethod
    @functools.lru_cache
    def _parse(cls, mode: str) -> Mode:
        letters = set(mode)
        if letters - set("axrwb+t") or len(mode) > len(letters):
            raise ValueError(f"invalid mode: {mode!r}")
        if "t" in letters and "b" in letters:
            raise ValueError("can't have text and binary mode at once")
        main = letters & set("axrw")
        if not main:
            raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
        if len(main) > 1:
            raise ValueError("must have exactly one of create/read/write/append mode")
        updating = "+" in letters
        (letter,) = main
        # io.FileIO has a word of its own for w+ from Python 3.15 on.
        raw = ("r" if letter == "w" and updating and sys.version_info < (3, 15) else letter) + "b" + "+" * updating
        access = os.O_RDWR if updating else os.O_RDONLY if letter == "r" else os.O_WRONLY
        how = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}
        return cls("b" not in letters, letter, updating, raw, access | how[letter] | os.O_CLOEXEC)


@overload
def open(
    file: FilePath,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[AsyncTextIOWrapper]: ...
@overload
def open(
    file: FilePath,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[AsyncFileIO]: ...
@overload
def open(
    file: FilePath,
    mode: OpenBinaryModeReading,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[AsyncBufferedReader]: ...
@overload
def open(
    file: FilePath,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[AsyncBufferedWriter]: ...
@overload
def open(
    file: FilePath,
    mode: OpenBinaryModeUpdating,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[AsyncBufferedRandom]: ...
@overload
def open(
    file: FilePath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[Any]: ...
def open(
    file: FilePath,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
    *,
    flags: int = 0,
) -> Opening[Any]:
    """Open a file. Await what it returns, or use it with `async with`.

    The arguments are io.open()'s, and so are the errors: ValueError, TypeError and LookupError at once, OSError when it
    is awaited. `flags`: more of open(2)'s, as os.O_DIRECT or os.O_DSYNC. `opener` is called in the default executor.
    """
    if not isinstance(file, int):
        file = os.fspath(file)
    parts = Mode.of(mode)
    check_buffering(buffering)
    if encoding is not None or errors is not None or newline is not None:
        check_for_text(parts, encoding, errors, newline)
    if not parts.text:
        if buffering == 1:
            text = "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    elif buffering != 0:
        encoding = io.text_encoding(encoding)  # type: ignore[attr-defined]
        try_for_text(encoding, errors, newline)
    if isinstance(file, int):
        if file < 0:
            raise ValueError("negative file descriptor")
    elif not closefd:
        raise ValueError("Cannot use closefd=False with file name")

    async def make() -> AsyncFileIO | AsyncBuffered | AsyncTextIOWrapper:
        engine = engine_of(asyncio.get_running_loop())
        raw = None
        if opener is None and not isinstance(file, int):
            facts = engine.open_now(file, parts.flags | flags)
            if facts is not None:
                raw = raw_over(engine, facts, file, parts, closefd)
        if raw is None:
            raw = await open_raw(engine, file, parts, closefd, opener, flags)
        try:
            return put_layers(raw, parts, mode, buffering, encoding, errors, newline)
        except BaseException:
            await raw.close()
            raise

    return Opening(make)


def check_for_text(mode: Mode, encoding: str | None, errors: str | None, newline: str | None) -> None:
    """Raises what io.open() raises."""
    for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument '{name}' must be str or None, not {type_name(value)}")
    if not mode.text:
        for name, value in (("an encoding", encoding), ("an errors", errors), ("a newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {name} argument")


@functools.lru_cache
def try_for_text(encoding: str, errors: str | None, newline: str | None) -> None:
    """Refuses bad arguments before anything is created, as io.TextIOWrapper; good ones are remembered."""
    io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)


async def open_raw(
    engine: Engine, file: FilePath, mode: Mode, closefd: bool, opener: Opener | None, flags: int
) -> AsyncFileIO:
    """The file without buffers, positioned at its end in mode "a"."""
    if isinstance(file, int):
        fd = file
    elif opener is None:
        fd = await engine.open(file, mode.flags | flags, 0o666)
    else:
        fd = await call_opener(engine, opener, file, mode.flags | flags)
    if isinstance(file, int) or opener is not None:
        engine.adopt(fd)
    raw = None
    try:
        try:
            facts = await engine.facts(fd)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror) from None  # as io.FileIO says it
        if facts.directory:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        raw = raw_over(engine, facts, file, mode, closefd)
        if mode.main == "a" and raw.can_seek():
            await raw.move(0, os.SEEK_END)
    except BaseException:
        if raw is not None:
            await raw.close()
        elif not isinstance(file, int):
            await engine.close(fd)
        raise
    return raw


def raw_over(engine: Engine, facts: Facts, file: FilePath, mode: Mode, closefd: bool) -> AsyncFileIO:
    size = min(max(facts.block_size, io.DEFAULT_BUFFER_SIZE), BUFFER_MAX)
    name = file if isinstance(file, int) else os.fspath(file)
    return AsyncFileIO(engine, facts.fd, name, mode.raw, closefd=closefd, buffer_size=size, local=facts.local)


async def call_opener(engine: Engine, opener: Opener, file: str | bytes | os.PathLike[Any], flags: int) -> int:
    """opener(file, flags), not inherited by child processes, closed if this is cancelled."""
    fds: list[int] = []

    def call() -> None:
        fd = opener(file, flags)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        fds.append(fd)
        os.set_inheritable(fd, False)

    try:
        await engine.call(call)
    except BaseException:
        for fd in fds:
            await engine.close(fd)
        raise
    return fds[0]


def put_layers(
    raw: AsyncFileIO,
    parts: Mode,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> AsyncFileIO | AsyncBuffered | AsyncTextIOWrapper:
    """The buffer and the text over it, as the arguments want them."""
    line_buffering = False
    if buffering == 1 or (buffering < 0 and not raw.local and os.isatty(raw.fileno())):
        buffering = -1
        line_buffering = True
    if buffering == 0:
        if parts.text:
            raise ValueError("can't have unbuffered text I/O")
        return raw
    size = raw.buffer_size if buffering < 0 else buffering
    buffer: AsyncBuffered
    if parts.updating:
        if not raw.can_seek():
            raise io.UnsupportedOperation("File or stream is not seekable.")
        buffer = AsyncBufferedRandom(raw, size)
    elif parts.main == "r":
        buffer = AsyncBufferedReader(raw, size, READ_AHEAD if buffering < 0 else 0)
    else:
        buffer = AsyncBufferedWriter(raw, size)
    if not parts.text:
        return buffer
    text = AsyncTextIOWrapper(buffer, encoding, errors, newline, line_buffering)
    text.mode = mode
    return text
