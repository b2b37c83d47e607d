"""What io's methods accept, and how they refuse the rest."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# What the kernel takes as an offset, and C as a size, on machines of 64 bits.
OFF_MIN, OFF_MAX = -(1 << 63), (1 << 63) - 1


def type_name(value: object) -> str:
    """As in the words of io's refusals."""
    return "None" if value is None else type(value).__name__


def as_size(size: SupportsIndex | None) -> int:
    """A size in bytes or characters; None is -1. Raises TypeError and OverflowError."""
    if size is None:
        return -1
    try:
        count = operator.index(size)
    except TypeError:
        raise TypeError(f"argument should be integer or None, not '{type(size).__name__}'") from None
    if not OFF_MIN <= count <= OFF_MAX:
        raise OverflowError(f"cannot fit '{type(size).__name__}' into an index-sized integer")
    return count


def as_bytes(data: ReadableBuffer) -> memoryview:
    """The bytes of an object that is written. Raises TypeError, or BufferError where they are not in one piece."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not '{type(data).__name__}'") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def as_space(buffer: WriteableBuffer, method: str) -> memoryview:
    """The bytes of an object that is read into. Raises TypeError."""
    try:
        view = memoryview(buffer)
        if not view.readonly:
            return view if view.format == "B" and view.ndim == 1 and view.c_contiguous else view.cast("B")
    except TypeError:
        pass
    raise TypeError(f"{method}() argument must be read-write bytes-like object, not {type(buffer).__name__}")


def as_offset(offset: SupportsIndex) -> int:
    """A file offset or size, bytes. Raises TypeError."""
    return operator.index(offset)


def as_position(offset: SupportsIndex) -> int:
    """What a buffered file seeks to. Raises TypeError, and ValueError where no file is as long."""
    position = operator.index(offset)
    if not OFF_MIN <= position <= OFF_MAX:
        raise ValueError(f"cannot fit '{type(offset).__name__}' into an offset-sized integer")
    return position


def check_buffering(buffering: SupportsIndex) -> None:
    """The argument of open(). Raises TypeError, and OverflowError as io.open(), for which it is an int of C."""
    if not -(1 << 31) <= operator.index(buffering) < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
