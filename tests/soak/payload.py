"""Streams of messages in which no byte can be lost, doubled, changed or swapped unnoticed."""

from __future__ import annotations

import os
import struct
from zlib import crc32

HEADER = struct.Struct("<IIII")  # the stream, the message's number in it, the size of its body, the body's CRC-32
BODIES = memoryview(os.urandom(1 << 20))
LARGEST = len(BODIES) // 2


class Wrong(Exception):
    """What arrived is not what was sent."""


class Source:
    """Makes the messages of one stream."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.number = 0

    def message(self, size: int) -> bytes:
        """The next one, of `size` bytes besides its header, at most LARGEST."""
        start = (self.stream * 977 + self.number * 7919) % LARGEST
        body = BODIES[start : start + size]
        header = HEADER.pack(self.stream, self.number, size, crc32(body))
        self.number += 1
        return b"".join((header, body))


class Checker:
    """Takes what arrives of one stream, cut up anyhow."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.number = 0
        self.rest = bytearray()
        self.needed = HEADER.size  # bytes until there is something to look at

    def feed(self, data: bytes | bytearray | memoryview) -> int:
        """How many messages are complete now that were not before. Raises Wrong."""
        self.rest += data
        before = self.number
        while len(self.rest) >= self.needed:
            stream, number, size, checksum = HEADER.unpack_from(self.rest)
            if (stream, number) != (self.stream, self.number) or size > LARGEST:
                raise Wrong(
                    f"message {number} of stream {stream} with {size} bytes where "
                    f"number {self.number} of stream {self.stream} should begin"
                )
            self.needed = HEADER.size + size
            if len(self.rest) < self.needed:
                break
            with memoryview(self.rest) as view, view[HEADER.size : self.needed] as body:
                if crc32(body) != checksum:
                    raise Wrong(f"the bytes of message {number} of stream {stream} have changed")
            del self.rest[: self.needed]
            self.needed = HEADER.size
            self.number += 1
        return self.number - before

    def finish(self, messages: int) -> None:
        """It has ended after `messages`, or Wrong is raised."""
        if self.rest or self.number != messages:
            raise Wrong(
                f"stream {self.stream} ends after message {self.number} and {len(self.rest)} bytes, not {messages}"
            )
