"""Bytes of the fuzzer as decisions: the same bytes make the same ones, and a byte changed changes one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Choices:
    """Once the bytes have run out everything is 0, empty, or the first of what there is to choose from."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there are more."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """So many bytes, or less."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def below(self, bound: int) -> int:
        """0 <= n < bound <= 65536."""
        return int.from_bytes(self.take(1 if bound <= 256 else 2), "little") % bound

    def of(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def bytes(self) -> bytes:
        return self.take(self.below(256))

    def text(self) -> str:
        """With surrogates and null characters, too."""
        return self.bytes().decode(self.of(["utf-8", "latin-1", "utf-16-le"]), "replace" if self.below(2) else "ignore")

    def number(self) -> int:
        """Near what systems have for limits, more often than not."""
        limit = self.of([0, 1 << 7, 1 << 8, 1 << 15, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 1 << 70])
        return self.of([1, -1]) * (limit + self.of([0, 1, -1, 2, 60, -1000]))

    def thing(self, depth: int = 2) -> Any:
        """Any object that somebody may pass for another."""
        kind = self.below(13 if depth else 10)
        if kind == 0:
            return self.number()
        if kind == 1:
            return self.text()
        if kind == 2:
            return self.bytes()
        if kind == 3:
            return self.below(70)
        if kind == 4:
            return self.of([None, True, False, ..., NotImplemented, int, object()])
        if kind == 5:
            return self.of([0.0, 1.5, float("nan"), float("inf"), -1e300, 1j])
        if kind == 6:
            return self.of(ODD)(self.number())
        if kind == 7:
            return bytearray(self.bytes())
        if kind == 8:
            return memoryview(self.bytes())
        if kind == 9:
            return Surprise(self.below(4))
        inner = [self.thing(depth - 1) for _ in range(self.below(5))]
        return inner if kind == 10 else tuple(inner) if kind == 11 else {str(i): each for i, each in enumerate(inner)}


class Index:
    """What operator.index() takes."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class WithFileno(Index):
    def fileno(self) -> int:
        return self._value


class Number(int):
    """A number of a class of its own."""


ODD = [Index, WithFileno, Number]


class Surprise:
    """Code that runs, and raises, where nobody expects any."""

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def _raise(self, *_: object) -> Any:
        raise (ValueError, TypeError, OSError, KeyError)[self._kind]("surprise")

    __index__ = __int__ = __float__ = __eq__ = __lt__ = __len__ = __iter__ = fileno = __fspath__ = __str__ = _raise
    __hash__ = None  # type: ignore[assignment]
