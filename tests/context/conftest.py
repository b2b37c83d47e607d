"""Sockets for the tests of the context."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def pairs(no_leaks: None) -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes connected socket pairs, and closes them."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        made.extend(pair)
        for sock in pair:
            sock.setblocking(False)
        return pair

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def listener(no_leaks: None) -> Iterator[socket.socket]:
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock
    sock.close()
