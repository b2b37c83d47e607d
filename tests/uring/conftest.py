"""Contexts and loops on io_uring; without it these tests fail in CI and are skipped elsewhere."""

from __future__ import annotations

import os
import socket

import pytest

import aioqemu_loop
from aioqemu_loop import AioContext
from aioqemu_loop.context.fdmons import BACKENDS


@pytest.fixture(autouse=True)
def needs_io_uring():
    reason = aioqemu_loop.fdmons()["io_uring"]
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"io_uring is not usable here: {reason}")


@pytest.fixture
def monitor(no_leaks):
    return BACKENDS["io_uring"]()


@pytest.fixture
def context(monitor, no_leaks):
    context = AioContext(monitor)
    yield context
    context.close()


@pytest.fixture
def loop(no_leaks):
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    yield loop
    loop.close()


@pytest.fixture
def pair(no_leaks):
    sockets = socket.socketpair()
    for sock in sockets:
        sock.setblocking(False)
    yield sockets
    for sock in sockets:
        sock.close()
