"""Fixtures for IOThreads: made on each backend, stopped at the end, nothing left behind."""

from __future__ import annotations

import functools
import socket
import threading

import pytest

import aioqemu_loop

from .helpers import PATIENCE, tcp_pair


@pytest.fixture
def new_iothread(fdmon, no_leaks):
    """new_iothread(name, **options) -> IOThread; stopped at the end. What its loop's exception handler is told and the
    test does not take from `errors` is a failure."""
    made = []

    def make(name="worker", **options):
        thread = aioqemu_loop.IOThread(name, fdmon=fdmon, **options)
        thread.errors = []
        thread.loop.set_exception_handler(lambda _, details: thread.errors.append(details))
        made.append(thread)
        return thread

    yield make
    for thread in made:
        thread.stop()
        assert not thread.errors
    names = {thread.name for thread in made}
    assert not [thread for thread in threading.enumerate() if thread.name in names]


@pytest.fixture
def iothread(new_iothread):
    return new_iothread()


@pytest.fixture
def pool(fdmon, no_leaks):
    """Three IOThreads. `pool.errors` has what their loops' exception handlers were told; what is left is a failure."""
    with aioqemu_loop.IOThreadPool(3, "pool", fdmon=fdmon) as pool:
        pool.errors = []
        for thread in pool:
            thread.loop.set_exception_handler(lambda _, details: pool.errors.append(details))
        yield pool
    assert not pool.errors


@pytest.fixture
def run(fdmon):
    """run(coroutine) on a loop of the same backend."""
    return functools.partial(aioqemu_loop.run, fdmon=fdmon)


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    """(socket for a transport, plain blocking peer with a timeout)."""
    ours, peer = tcp_pair() if request.param == "tcp" else socket.socketpair()
    ours.setblocking(False)
    peer.settimeout(PATIENCE)
    for sock in (ours, peer):  # so that what tests call much does not fit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    with ours, peer:
        yield ours, peer
