"""From a stream of bytes to JSON values, as QEMU's parser takes them: several texts in a line, one over several lines,
and after a wrong one the next right one is understood.

JSONStream only finds out where a text ends, looking at each byte once; parse() is the standard library's.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from aioqemu_loop.monitor.errors import LimitExceeded, QMPError

MAX_TEXT = 128 * 1024  # bytes
MAX_NESTING = 64

_OUTSIDE_STRINGS = re.compile(rb'["{}\[\]\n]')
_INSIDE_STRINGS = re.compile(rb'["\\\x00-\x1f]')
_CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
_QUOTE, _BACKSLASH, _NEWLINE = b'"\\\n'


class JSONStream:
    """feed() it with what comes, and take the texts out by next()."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begin_text(0)

    def _begin_text(self, start: int) -> None:
        del self._buffer[:start]
        self._looked_at = 0
        self._in_string = False
        self._expected = bytearray()  # the closing brackets of those that are open

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next text that is complete; it need not be JSON. None: there is no more yet. Raises LimitExceeded."""
        while True:
            end = self._find_end()
            if (len(self._buffer) if end is None else end) > MAX_TEXT:
                raise LimitExceeded(f"JSON text is larger than {MAX_TEXT} bytes")
            if end is None:
                return None
            text = bytes(self._buffer[:end]).strip()
            self._begin_text(end)
            if text:
                return text

    def _find_end(self) -> int | None:
        """Where the text at the front of the buffer ends. An object or array does where its bracket is closed, or where
        nothing that follows could make it right; anything else does at the end of the line or before a bracket."""
        buffer = self._buffer
        position = self._looked_at
        while True:
            found = (_INSIDE_STRINGS if self._in_string else _OUTSIDE_STRINGS).search(buffer, position)
            if found is None:
                self._looked_at = len(buffer)
                return None
            at = found.start()
            position = at + 1
            char = buffer[at]
            if self._in_string:
                if char == _QUOTE:
                    self._in_string = False
                elif char != _BACKSLASH:  # a control character, which no string has
                    return position
                elif position == len(buffer):
                    self._looked_at = at
                    return None
                elif buffer[position] in (_QUOTE, _BACKSLASH):
                    position += 1
            elif char == _QUOTE:
                self._in_string = True
            elif char in _CLOSER:
                if not self._expected and buffer[:at].strip():
                    return at
                self._expected.append(_CLOSER[char])
                if len(self._expected) > MAX_NESTING:
                    raise LimitExceeded(f"JSON text is nested deeper than {MAX_NESTING} levels")
            elif char != _NEWLINE:
                if self._expected and (self._expected.pop() != char or not self._expected):
                    return position
            elif not self._expected:
                return position


def parse(text: bytes) -> Any:
    """The value of one JSON text in UTF-8. Raises QMPError."""
    try:
        return json.loads(
            text.decode(),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_no_constant,
            object_pairs_hook=_without_duplicates,
        )
    except ValueError:
        raise QMPError("Invalid JSON syntax") from None


def _integer(digits: str) -> int | float:
    """As in QEMU a number that 64 bits do not hold is a floating-point one."""
    if len(digits) <= 20:
        number = int(digits)
        if -(1 << 63) <= number < 1 << 64:
            return number
    return _finite(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise QMPError("Invalid JSON syntax, duplicate key")
    return members
