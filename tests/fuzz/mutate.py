"""Inputs made from inputs, for where atheris cannot be had: no knowledge of what the code does with them."""

from __future__ import annotations

import random

INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"{",
    b'"',
    b"\\",
    b"\x16\x03\x01",
    b"\x17\x03\x03",
    b"\xff\xff\xff\xff",
]


def mutated(source: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds, with a few changes; or nothing like them."""
    if source.random() < 0.3:
        return source.randbytes(source.randrange(48))
    data = bytearray(source.choice(seeds))
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(len(data) + 1)
        how = source.randrange(6)
        if how == 0 and at < len(data):
            data[at] ^= 1 << source.randrange(8)
        elif how == 1:
            data[at:at] = source.randbytes(source.randrange(1, 9))
        elif how == 2:
            del data[at : at + source.randrange(1, 9)]
        elif how == 3:
            data[at:at] = source.choice(INTERESTING)
        elif how == 4:
            data[at:] = source.choice(seeds)[at:]
        elif at < len(data):
            data[at] = source.randrange(256)
    return bytes(data)
