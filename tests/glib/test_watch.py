"""create_watch(): fds and transports as GLib sources, and their way between main contexts and AioContexts."""

from __future__ import annotations

import os
import socket

import pytest

import aioqemu_loop

from ..conftest import PATIENCE
from .helpers import Receiver
from .real import GLib, glib

IN, OUT, HUP = GLib.IOCondition.IN, GLib.IOCondition.OUT, GLib.IOCondition.HUP


@pytest.fixture
def pair(no_leaks, shown):
    a, b = socket.socketpair()
    for sock in (a, b):
        sock.setblocking(False)
    with a, b:
        yield a, b


def iterate(done, context=None):
    """Iterate a main context until done(), for some seconds at most."""
    context = context or GLib.MainContext.default()
    late = []
    guard = GLib.timeout_source_new(int(PATIENCE * 1000))
    guard.set_callback(lambda *_: late.append(1))
    guard.attach(context)
    while not done() and not late:
        context.iteration(True)
    guard.destroy()
    assert not late


def pending(context=None):
    """Whether something is ready."""
    return (context or GLib.MainContext.default()).iteration(False)


class TestFds:
    def test_until_the_callback_has_enough(self, pair):
        a, b = pair
        seen = []

        def ready(channel, condition):
            seen.append((channel, condition, a.recv(1)))
            return len(seen) < 3

        glib.create_watch(a, IN, ready).attach()
        b.send(b"12345")
        iterate(lambda: len(seen) == 3)
        assert not pending()
        assert seen == [(a, IN, b"1"), (a, IN, b"2"), (a, IN, b"3")]

    def test_nothing_before_it_is_attached_or_after_its_end(self, pair):
        a, b = pair
        seen = []
        watch = glib.create_watch(a.fileno(), IN, lambda *_: seen.append(1) or True)
        b.send(b"x")
        assert not pending()
        watch.attach()
        iterate(lambda: seen)
        watch.destroy()
        watch.destroy()
        seen.clear()
        assert not pending()
        assert not seen

    def test_conditions(self, pair):
        a, b = pair
        seen = []
        watch = glib.create_watch(a, IN | OUT | HUP, lambda _, condition: seen.append(condition))
        watch.attach()
        iterate(lambda: seen)
        assert seen == [OUT]
        seen.clear()
        b.close()
        watch.attach()
        iterate(lambda: seen)
        assert seen[0] & HUP and seen[0] & IN

    def test_a_callback_that_fails_ends_it(self, pair, shown):
        a, b = pair
        watch = glib.create_watch(a, IN, lambda *_: 1 / 0)
        watch.attach()
        b.send(b"x")
        iterate(lambda: shown)
        assert [type(exc) for exc in shown] == [ZeroDivisionError]
        shown.clear()
        assert not pending()

    def test_priorities(self, pair):
        a, b = pair
        order = []
        b.send(b"x")
        for priority in (GLib.PRIORITY_LOW, GLib.PRIORITY_HIGH, GLib.PRIORITY_DEFAULT):
            glib.create_watch(a, IN, lambda *_, priority=priority: order.append(priority)).attach(priority=priority)
        iterate(lambda: len(order) == 3)
        assert order == [GLib.PRIORITY_HIGH, GLib.PRIORITY_DEFAULT, GLib.PRIORITY_LOW]

    @pytest.mark.parametrize("wrong", [-1, None, "fd", object()])
    def test_what_has_no_fd(self, wrong):
        with pytest.raises(ValueError):
            glib.create_watch(wrong, IN, print)

    def test_what_is_no_condition_or_context(self, pair):
        with pytest.raises(TypeError):
            glib.create_watch(pair[0], "in", print)
        watch = glib.create_watch(pair[0], IN, print)
        with pytest.raises(TypeError):
            watch.attach("default")


class TestMoving:
    def test_between_main_contexts(self, pair):
        a, b = pair
        other = GLib.MainContext.new()
        seen = []
        watch = glib.create_watch(a, IN, lambda *_: seen.append(a.recv(1)) or True)
        for context in (None, other, None, other):
            watch.attach(context)
            b.send(b"x")
            assert not pending(other if context is None else None)
            iterate(lambda: seen, context)
            seen.clear()
        watch.destroy()

    def test_between_a_main_context_and_an_aio_context(self, pair, fdmon):
        a, b = pair
        context = aioqemu_loop.AioContext(fdmon)
        seen = []
        watch = glib.create_watch(a, IN, lambda _, condition: seen.append((condition, a.recv(1))) or True)
        for _ in range(5):
            watch.attach()
            b.send(b"g")
            assert not context.poll(False)
            iterate(lambda: seen)
            watch.attach_aio_context(context)
            b.send(b"a")
            assert not pending()
            while len(seen) < 2:
                context.poll()
            assert seen == [(IN, b"g"), (IN, b"a")]
            seen.clear()
        watch.destroy()
        b.send(b"x")
        assert not context.poll(False)
        assert not pending()
        context.close()

    def test_inside_the_callback(self, pair, fdmon):
        a, b = pair
        context = aioqemu_loop.AioContext(fdmon)
        seen = []

        def ready(channel, condition):
            seen.append(a.recv(1))
            if len(seen) % 2:
                watch.attach_aio_context(context)
            else:
                watch.attach()
            return True

        watch = glib.create_watch(a, IN, ready)
        watch.attach()
        for number in range(1, 9):
            b.send(b"%d" % number)
            if number % 2:
                iterate(lambda number=number: len(seen) == number)
            else:
                while len(seen) < number:
                    context.poll()
        watch.destroy()
        context.close()
        assert b"".join(seen) == b"12345678"

    def test_out_in_an_aio_context(self, pair, fdmon):
        context = aioqemu_loop.AioContext(fdmon)
        seen = []
        glib.create_watch(pair[0], OUT, lambda _, condition: seen.append(condition)).attach_aio_context(context)
        while not seen:
            context.poll()
        assert seen == [OUT]
        assert not context.poll(False)
        context.close()

    def test_hup_alone_cannot_be_watched_in_an_aio_context(self, pair, fdmon):
        context = aioqemu_loop.AioContext(fdmon)
        called = []
        context.set_fd_handler(pair[0], lambda: called.append(pair[0].recv(1)))
        watch = glib.create_watch(pair[0], HUP, print)
        with pytest.raises(ValueError):
            watch.attach_aio_context(context)
        pair[1].send(b"x")
        context.poll()
        assert called
        context.set_fd_handler(pair[0])
        context.close()

    def test_into_another_thread(self, pair, fdmon, in_thread):
        a, b = pair
        context = aioqemu_loop.AioContext(fdmon)
        seen = []
        watch = glib.create_watch(a, IN, lambda *_: seen.append(a.recv(1)) or True)
        watch.attach()
        b.send(b"1")
        iterate(lambda: seen)
        watch.attach_aio_context(context)
        b.send(b"2")

        def serve():
            while len(seen) < 2:
                context.poll()

        in_thread(serve)()
        watch.destroy()
        context.close()
        assert seen == [b"1", b"2"]


class TestTransports:
    @pytest.fixture
    def connected(self, guest_loop, main, pair):
        a, b = pair

        async def connect():
            return await guest_loop.create_connection(Receiver, sock=a)

        with glib.attach(guest_loop):
            transport, protocol = main.run_task(guest_loop, connect())
            yield transport, protocol, b
            transport.close()
            main.run_until(lambda: protocol.lost)

    def test_to_glib_and_back(self, connected, main):
        transport, protocol, peer = connected
        seen = []
        sock = transport.get_extra_info("socket")
        watch = glib.create_watch(transport, IN, lambda _, condition: seen.append(os.read(sock.fileno(), 10)) or True)
        for number in range(5):
            watch.attach()
            assert not transport.is_reading()
            peer.send(b"to glib")
            main.run_until(lambda number=number: len(seen) == number + 1)
            watch.destroy()
            assert transport.is_reading()
            peer.send(b"to the loop")
            main.run_until(lambda number=number: protocol.received == b"to the loop" * (number + 1))
        assert seen == [b"to glib"] * 5

    def test_it_writes_meanwhile(self, connected, main):
        transport, _, peer = connected
        watch = glib.create_watch(transport, IN, lambda *_: True)
        watch.attach()
        transport.write(b"written")
        assert peer.recv(100) == b"written"
        watch.destroy()

    def test_back_by_attach_aio_context(self, connected, guest_loop, main):
        transport, protocol, peer = connected
        watch = glib.create_watch(transport, IN, lambda *_: True)
        watch.attach()
        watch.attach_aio_context(guest_loop.context)
        peer.send(b"x")
        main.run_until(lambda: protocol.received == b"x")

    def test_a_paused_one_stays_paused(self, connected):
        transport, _, _ = connected
        transport.pause_reading()
        watch = glib.create_watch(transport, IN, lambda *_: True)
        watch.attach()
        watch.destroy()
        assert not transport.is_reading()

    @pytest.mark.parametrize("how", ["close", "abort"])
    def test_one_that_is_closed_takes_the_watch_with_it(self, connected, guest_loop, main, how):
        """Its number is another file's soon."""
        transport, protocol, _ = connected
        called = []
        watch = glib.create_watch(transport, IN, lambda *_: called.append(1) or True)
        watch.attach()
        number = watch.fd
        getattr(transport, how)()
        main.run_until(lambda: protocol.lost)
        again = []
        while not again or again[-1].fileno() < number:
            again.extend(socket.socketpair())
        for sock in again:
            sock.send(b"x")
        main.run_until(lambda: True)
        assert not called
        for sock in again:
            sock.close()

    def test_a_closed_one_is_refused(self, connected, main):
        transport, protocol, _ = connected
        transport.close()
        main.run_until(lambda: protocol.lost)
        with pytest.raises(ValueError):
            glib.create_watch(transport, IN, print)
