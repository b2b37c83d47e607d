"""The monitor's parser: what it takes in pieces is what it takes in one, and all that it raises is its own."""

from __future__ import annotations

import json

from aioqemu_loop.monitor.errors import LimitExceeded, QMPError
from aioqemu_loop.monitor.parser import JSONStream, parse

SEEDS = [
    b'\x00{"execute": "qmp_capabilities"}\n{"execute":"query-loops","id":1}',
    b'\x01{"execute": "query-tasks", "arguments": {"loop": "loop0", "a": [1, 2.5e3, null, true]}, "id": "\\u00e9\\""}',
    b'\x05[[[{"a":{"b":"\\\\"}}]]] 5 "text"\n}{',
    b"\x02\xff\xfe{}\xf0\x9f\x98\x80\n-1e400 18446744073709551616\n",
]


def texts(data: bytes, size: int) -> tuple[list[bytes], bool]:
    """What a stream gives that is fed `size` bytes at a time, and whether it came to a limit."""
    stream = JSONStream()
    found = []
    try:
        for at in range(0, len(data), size):
            stream.feed(data[at : at + size])
            while (text := stream.next()) is not None:
                found.append(text)
    except LimitExceeded:
        return found, True
    return found, False


def target(data: bytes) -> None:
    """The first byte says how large the pieces are."""
    size, data = (data[0] + 1, data[1:]) if data else (1, b"")
    whole = texts(data, len(data) or 1)
    assert texts(data, size) == whole
    for text in whole[0]:
        try:
            value = parse(text)
        except QMPError:
            continue
        except RecursionError as exc:
            raise AssertionError("deeper than the stream lets through") from exc
        assert parse(json.dumps(value).encode()) == value
