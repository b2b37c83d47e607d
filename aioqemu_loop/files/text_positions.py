"""Where in a text file one is: cookies of tell(), which io's text files understand, too.

A position between two characters is told as a byte offset where decoding can start, the decoder's state there, and how
many bytes to feed it and characters to skip from there. Mostly the offset alone says it all.
"""

from __future__ import annotations

from codecs import IncrementalDecoder
from typing import NamedTuple

# Bits of a cookie's parts, from the lowest on; as on a machine whose C int has 32. The upper part of flags that need
# more, which io could not tell at all, comes last.
START, FLAGS, FEED, SKIP, END = 64, 32, 32, 32, 8


class TextPosition(NamedTuple):
    """The parts of a cookie."""

    start: int  # byte offset in the file
    flags: int = 0  # the decoder's state there
    feed: int = 0  # bytes
    skip: int = 0  # characters that come out of these, and are before the position
    need_end: bool = False  # the decoder gives the last of them only when told that the file ends

    def cookie(self) -> int:
        """As tell() returns it."""
        lower, upper = self.flags & ((1 << FLAGS) - 1), self.flags >> FLAGS
        cookie = 0
        parts = ((self.start, START), (lower, FLAGS), (self.feed, FEED), (self.skip, SKIP), (int(self.need_end), END))
        for part, bits in reversed((*parts, (upper, 0))):
            cookie = cookie << bits | part
        return cookie

    @classmethod
    def of(cls, cookie: int) -> TextPosition:
        """What tell() returned, taken apart."""
        parts = []
        for bits in (START, FLAGS, FEED, SKIP, END):
            parts.append(cookie & ((1 << bits) - 1))
            cookie >>= bits
        start, flags, feed, skip, need_end = parts
        if start >> (START - 1):
            start -= 1 << START  # as C has it; the kernel refuses what is negative
        return cls(start, flags | cookie << FLAGS, feed, skip, bool(need_end))


def locate(decoder: IncrementalDecoder, start: int, flags: int, data: bytes, count: int) -> TextPosition:
    """The position `count` characters into what `data`, the bytes at `start`, decodes to. Sets the decoder's state."""

    def decoded(size: int) -> tuple[int, bytes, int]:
        """(characters, bytes it holds back, its flags) after `size` bytes."""
        decoder.setstate((b"", flags))
        length = len(decoder.decode(data[:size]))
        return length, *decoder.getstate()

    if not count:
        return TextPosition(start, flags)
    # The fewest bytes that give all the characters, if there are such.
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        if decoded(middle)[0] < count:
            low = middle + 1
        else:
            high = middle
    length, held, flags_there = decoded(low)
    if length == count and not held:
        return TextPosition(start + low, flags_there)
    # Between two characters that come out together. Back to where nothing was held back; further each time, for
    # encodings that hold back much.
    step, safe = 1, 0
    while step <= low:
        length, held, flags_there = decoded(low - step)
        if not held and length <= count:
            safe = low - step
            break
        step *= 2
    length, held, flags_there = decoded(safe) if safe else (0, b"", flags)
    decoder.setstate((b"", flags_there))
    skip = count - length
    came = 0
    for feed in range(len(data) - safe + 1):
        if feed:
            came += len(decoder.decode(data[safe + feed - 1 : safe + feed]))
        if came >= skip and feed:
            return TextPosition(start + safe, flags_there, feed, skip)
    return TextPosition(start + safe, flags_there, len(data) - safe, skip, True)
