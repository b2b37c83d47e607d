"""Sockets for the tests of the context."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ..conftest import BACKENDS, need_fdmon


@pytest.fixture(params=dict.fromkeys((*BACKENDS, "liburing")))
def fdmon(request: pytest.FixtureRequest) -> str:
    """The backend in Python too."""
    need_fdmon(request.param)
    return str(request.param)


@pytest.fixture
def listener(no_leaks: None) -> Iterator[socket.socket]:
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock
    sock.close()
