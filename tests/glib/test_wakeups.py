"""Work for the loop that comes from GLib's callbacks, outside the loop's dispatch, just before GLib sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest

from ..conftest import PATIENCE
from .helpers import Receiver
from .real import GLib, glib

# GLib sleeps for ever unless it is woken up: without a wake-up a round is a failure after PATIENCE.
SOON = PATIENCE / 3


class Preparing(GLib.Source):
    """Does something once in prepare() or check(), after the guest's own prepare(): then GLib sleeps at once."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.set_priority(GLib.PRIORITY_LOW)

    def prepare(self):
        function, self.function = self.function, None
        if function is not None:
            function()
        return False, -1

    def check(self):
        return False

    def dispatch(self, callback, args):
        return True


def in_idle(function):
    source = GLib.idle_source_new()
    source.set_callback(lambda *_: function() and False)
    return source


def in_prepare(function):
    return Preparing(function)


@pytest.fixture(params=[in_idle, in_prepare], ids=["idle", "prepare"])
def outside(request, guest_loop, main):
    """outside(function, done): function() is called by GLib, and done() must become true soon after that.
    `sleeps`: by what wakes GLib up."""

    def call(function, done, sleeps=True):
        context = GLib.MainContext.default()
        called = []
        source = request.param(lambda: called.append(function()))
        source.attach()
        deadline = time.monotonic() + SOON
        guard = GLib.timeout_source_new(int(PATIENCE * 1000))
        guard.set_callback(lambda *_: True)
        guard.attach()
        while not (called and done()) and time.monotonic() < deadline:
            context.iteration(sleeps)
        guard.destroy()
        source.destroy()
        assert done() and time.monotonic() < deadline

    with glib.attach(guest_loop):
        yield call


@pytest.fixture
def connected(guest_loop, main):
    """connected(): (transport, protocol, the other end)."""
    ends = []

    def make():
        a, b = socket.socketpair()
        ends.append(b)
        b.settimeout(PATIENCE)

        async def connect():
            return await guest_loop.create_connection(Receiver, sock=a)

        transport, protocol = main.run_task(guest_loop, connect())
        ends.append(transport)
        return transport, protocol, b

    yield make
    for end in ends:
        end.close()


def drained(transport):
    return transport.get_write_buffer_size() == 0


class TestCallbacks:
    def test_call_soon(self, guest_loop, outside):
        for _ in range(50):
            ran = []
            outside(lambda ran=ran: guest_loop.call_soon(ran.append, 1), lambda ran=ran: ran)

    def test_call_later(self, guest_loop, outside):
        for delay in (0, 0.0005, 0.003) * 5:
            ran = []
            outside(lambda ran=ran, delay=delay: guest_loop.call_later(delay, ran.append, 1), lambda ran=ran: ran)

    def test_a_sooner_timer_than_the_one_it_would_sleep_for(self, guest_loop, outside):
        late = guest_loop.call_later(100, lambda: None)
        ran = []
        outside(lambda: guest_loop.call_later(0.002, ran.append, 1), lambda: ran)
        late.cancel()

    def test_call_soon_threadsafe(self, guest_loop, outside):
        ran = []
        outside(lambda: guest_loop.call_soon_threadsafe(ran.append, 1), lambda: ran)

    def test_create_task(self, guest_loop, outside):
        tasks = []
        outside(
            lambda: tasks.append(glib.create_task(asyncio.sleep(0.001))),
            lambda: tasks and tasks[0].done(),
        )


class TestFds:
    def test_add_reader(self, guest_loop, outside):
        a, b = socket.socketpair()
        with a, b:
            b.send(b"x")
            for _ in range(20):
                came = []
                outside(lambda came=came: guest_loop.add_reader(a, came.append, 1), lambda came=came: came)
                guest_loop.remove_reader(a)

    def test_add_writer(self, guest_loop, outside):
        a, b = socket.socketpair()
        with a, b:
            came = []
            outside(lambda: guest_loop.add_writer(a, came.append, 1), lambda: came)
            guest_loop.remove_writer(a)

    def test_an_fd_that_is_closed_and_used_again(self, guest_loop, outside):
        a, b = socket.socketpair()
        guest_loop.add_reader(a, a.recv, 10)
        outside(lambda: guest_loop.call_soon(a.recv, 0), lambda: True)
        came = []

        def replace():
            guest_loop.remove_reader(a)
            number = a.fileno()
            a.close()
            b.close()
            ends.extend(socket.socketpair())
            assert number in (ends[0].fileno(), ends[1].fileno())
            guest_loop.add_reader(ends[0], lambda: came.append(ends[0].recv(10)))
            ends[1].send(b"new")

        ends = []
        outside(replace, lambda: came)
        guest_loop.remove_reader(ends[0])
        for end in ends:
            end.close()
        assert came == [b"new"]


class TestTransports:
    def test_write(self, connected, outside):
        transport, _, peer = connected()
        for number in range(20):
            outside(lambda number=number: transport.write(b"%d" % number), lambda: True, sleeps=False)
            assert peer.recv(100) == b"%d" % number

    def test_write_of_more_than_the_kernel_takes(self, connected, outside):
        transport, _, peer = connected()
        size = 4 << 20
        peer.setblocking(False)
        got = 0

        def take():
            nonlocal got
            with contextlib.suppress(BlockingIOError):
                got += len(peer.recv(1 << 20))
            return got == size

        outside(lambda: transport.write(bytes(size)), take)
        assert drained(transport)

    def test_close(self, connected, outside):
        transport, protocol, peer = connected()
        outside(transport.close, lambda: protocol.lost)
        assert peer.recv(1) == b""

    def test_abort(self, connected, outside):
        transport, protocol, _ = connected()
        outside(transport.abort, lambda: protocol.lost)

    def test_pause_and_resume(self, connected, outside):
        transport, protocol, peer = connected()
        for number in range(10):
            outside(transport.pause_reading, lambda: not transport.is_reading())
            peer.send(b"%d" % number)
            outside(transport.resume_reading, lambda number=number: protocol.received.endswith(b"%d" % number))
        assert protocol.received == b"0123456789"

    def test_the_peer_closes_while_glib_sleeps(self, guest_loop, connected, outside):
        _, protocol, peer = connected()
        outside(peer.close, lambda: protocol.lost)
