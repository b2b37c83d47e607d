"""What the files of all layers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, TypeVar

from aioqemu_loop.files.arguments import as_size

if TYPE_CHECKING:
    from typing_extensions import Self

Data = TypeVar("Data", bytes, str)


class AsyncFile(Generic[Data]):
    """An open file. `async with` closes it; `async for` gives its lines."""

    @property
    def closed(self) -> bool:
        """Whether it was closed. ValueError if the layer below was detached."""
        raise NotImplementedError

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    async def readline(self, size: SupportsIndex | None = -1) -> Data:
        """Up to the next line end, at most `size`; empty at the end of the file."""
        raise NotImplementedError

    async def write(self, data: Any) -> int | None:
        """Returns how much was written."""
        raise NotImplementedError

    async def close(self) -> None:
        """Write what is buffered, and close. Closes also where writing fails."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """close(), by anyio's name for it."""
        await self.close()

    async def readlines(self, hint: SupportsIndex | None = -1) -> list[Data]:
        """All lines that are left; with a positive `hint`, no more once they are longer than that together."""
        limit = as_size(hint)
        lines: list[Data] = []
        length = 0
        async for line in self:
            lines.append(line)
            length += len(line)
            if 0 < limit < length:
                break
        return lines

    async def writelines(self, lines: Iterable[Any]) -> None:
        """write() each of them; line ends are not added."""
        self._check_open()
        for line in lines:
            await self.write(line)

    def __aiter__(self) -> Self:
        self._check_open()
        return self

    async def __anext__(self) -> Data:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
