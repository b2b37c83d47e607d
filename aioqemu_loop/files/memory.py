"""Memory for O_DIRECT."""

from __future__ import annotations

import ctypes
import mmap


def aligned_buffer(size: int, alignment: int = 4096) -> memoryview:
    """`size` bytes of zeroed, writable memory whose address is a multiple of `alignment`, a power of two.

    For files opened with flags=os.O_DIRECT: offset, length and address must suit the disk's blocks. ValueError for bad
    numbers.
    """
    if size <= 0:
        raise ValueError("size must be positive")
    if alignment <= 0 or alignment & (alignment - 1):
        raise ValueError("alignment must be a power of two")
    spare = max(0, alignment - mmap.PAGESIZE)
    memory = memoryview(mmap.mmap(-1, size + spare))
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % alignment if spare else 0
    return memory[start : start + size]
