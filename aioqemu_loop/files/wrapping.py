"""Files that exist already, and the standard streams, with awaitable methods: each call is a job for the executor."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from aioqemu_loop.files.os_functions import call

if TYPE_CHECKING:
    from typing_extensions import Self

AWAITABLE = {
    *("close", "flush", "isatty", "peek", "read", "read1", "readall", "readinto", "readinto1", "readline", "readlines"),
    *("rollover", "seek", "seekable", "tell", "truncate", "writable", "write", "writelines"),
}


class WrappedFile:
    """A file of io's with awaitable methods; what does not block (fileno(), readable(), name, ...) is as it was."""

    def __init__(self, wrapped: Callable[[], Any]) -> None:
        self._wrapped = wrapped

    @property
    def wrapped(self) -> Any:
        """The file itself."""
        return self._wrapped()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped(), name)
        return functools.partial(call, value) if name in AWAITABLE and callable(value) else value

    def __repr__(self) -> str:
        return f"<aioqemu_loop.files.WrappedFile of {self._wrapped()!r}>"

    async def aclose(self) -> None:
        """close(), by anyio's name for it."""
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def wrap(file: Any) -> WrappedFile:
    """A file object that is open already, with awaitable methods. TypeError for what is none."""
    if isinstance(file, type) or not (hasattr(file, "close") and (hasattr(file, "read") or hasattr(file, "write"))):
        raise TypeError(f"not a file: {file!r}")
    return WrappedFile(lambda: file)


# What sys.stdin and the others are at the time of the call.
stdin = WrappedFile(lambda: sys.stdin)
stdout = WrappedFile(lambda: sys.stdout)
stderr = WrappedFile(lambda: sys.stderr)
stdin_bytes = WrappedFile(lambda: sys.stdin.buffer)
stdout_bytes = WrappedFile(lambda: sys.stdout.buffer)
stderr_bytes = WrappedFile(lambda: sys.stderr.buffer)
