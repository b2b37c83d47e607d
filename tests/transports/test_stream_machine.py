"""Stream transports against a model: random programs that write, pause, half-close, abort, raise, change the monitor,
close file descriptors behind the loop's back and reuse their numbers, fork, and have other threads do such things, on
every backend.

AIOQEMU_TEST_EXAMPLES: how many programs for each backend, instead of a few.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import aioqemu_loop
from tests.conftest import BACKENDS, need_fdmon

from ..process.work import in_a_child
from .outsiders import Accomplice, use_in_child

EXAMPLES = int(os.environ.get("AIOQEMU_TEST_EXAMPLES", "40"))
TURNS = 400  # until something that must come is late
sizes = st.one_of(st.integers(1, 100), st.integers(1, 80_000))
numbers = st.integers(0, 10**6)
# What other threads ask for: rules, by name.
ACTIONS = ["write", "write", "pause", "resume", "write_eof", "close", "abort", "fork", "set_fdmon", "cancel"]
# What a child does to the transports it has inherited.
VERBS = ["write", "pause_reading", "resume_reading", "close", "abort"]


class Oops(Exception):
    pass


class Connection(asyncio.Protocol):
    """Our end with its model, and the peer's socket, which the test drives by hand."""

    def __init__(self, peer, fill):
        self.fd = -1
        self.peer = peer
        self.transport = None
        self.fill = fill
        self.sent = bytearray()  # by write()
        self.arrived = bytearray()  # at the peer
        self.peer_sent = bytearray()
        self.got = bytearray()  # by data_received()
        self.paused_writing = False
        self.lost = []
        self.eofs = 0
        self.wants_oops = None
        self.oopses = 0
        # What excuses bytes that do not arrive.
        self.fd_closed = self.aborted = self.closed = self.peer_closed = self.peer_ended = self.peer_saw_end = False
        self.ended = False

    def connection_made(self, transport):
        self.transport = transport

    def oops(self, where):
        if self.wants_oops == where:
            self.wants_oops = None
            self.oopses += 1
            raise Oops

    def data_received(self, data):
        assert not self.lost and not self.eofs
        self.got += data
        assert self.peer_sent.startswith(self.got), "wrong bytes came"
        self.oops("data")

    def eof_received(self):
        assert not self.lost
        self.eofs += 1
        assert self.eofs == 1 and self.peer_ended
        self.oops("eof")
        return True

    def connection_lost(self, exc):
        self.lost.append(exc)
        assert len(self.lost) == 1

    def pause_writing(self):
        assert not self.paused_writing
        self.paused_writing = True

    def resume_writing(self):
        assert self.paused_writing
        self.paused_writing = False
        self.oops("resume")

    def make_bytes(self, done, size):
        return bytes((len(done) + i) * self.fill % 251 for i in range(min(size, 251))) * (size // 251 + 1)

    @property
    def over(self):
        return bool(self.lost)

    def drain_peer(self, most=1 << 20):
        while most > 0 and not self.peer_closed and not self.peer_saw_end:
            try:
                data = self.peer.recv(min(most, 1 << 16))
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
                self.aborted = True
            if not data:
                self.peer_saw_end = True
                return
            self.arrived += data
            most -= len(data)
            assert self.sent.startswith(self.arrived), "wrong bytes arrived"


class StreamMachine(RuleBasedStateMachine):
    backend = "epoll"

    def __init__(self):
        super().__init__()
        self.loop = aioqemu_loop.new_event_loop(fdmon=self.backend)
        self.told = []
        self.loop.set_exception_handler(lambda _, details: self.told.append(details))
        self.connections = []
        self.made = 0
        self.accomplices = [Accomplice(self.loop) for _ in range(2)]
        self.accepting = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = self.loop.run_until_complete(self.loop.create_server(lambda: self.accepting, sock=self.listener))

    # -- helpers --

    def choose(self, number):
        alive = [c for c in self.connections if c.transport is not None and not c.over and not c.fd_closed]
        return alive[number % len(alive)] if alive else None

    def turn(self, count=1):
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, condition, what):
        for _ in range(TURNS):
            if condition():
                return
            for connection in self.connections:
                connection.drain_peer()
            self.turn()
        raise AssertionError(what)

    @initialize(tcp=st.booleans())
    def first(self, tcp):
        self.make(tcp)

    # -- rules --

    @precondition(lambda self: len(self.connections) < 12)
    @rule(tcp=st.booleans())
    def make(self, tcp):
        if tcp:
            self.connect()
            return
        ours, peer = socket.socketpair()
        connection = self.model_of(peer)
        self.loop.run_until_complete(self.loop.create_unix_connection(lambda: connection, sock=ours))
        connection.fd = ours.fileno()

    def model_of(self, peer):
        peer.setblocking(False)
        self.made += 1
        self.connections.append(Connection(peer, self.made))
        return self.connections[-1]

    def connect(self, close_first=-1):
        """A TCP connection that a server of the loop accepts, with the number of an fd that is closed before that."""
        peer = socket.create_connection(self.listener.getsockname())
        connection = self.model_of(peer)
        self.accepting = connection
        fillers = [os.dup(peer.fileno())]
        while fillers[-1] < close_first:  # so that its number is the lowest that is free
            fillers.append(os.dup(fillers[0]))
        if close_first >= 0:
            os.close(close_first)
        self.until(lambda: connection.transport is not None, "connection_made() is missing")
        connection.fd = connection.transport.get_extra_info("socket").fileno()
        for filler in fillers:
            os.close(filler)

    @rule(count=st.integers(1, 4))
    def turns(self, count):
        self.turn(count)

    @rule(number=numbers, size=sizes, inside=st.booleans())
    def write(self, number, size, inside):
        connection = self.choose(number)
        if connection is None or connection.ended or connection.closed:
            return
        data = connection.make_bytes(connection.sent, size)[:size]

        def now():
            if not connection.over and not connection.transport.is_closing():
                connection.sent.extend(data)
                connection.transport.write(data)

        if inside:
            self.loop.call_soon(now)
            self.turn()
        else:
            now()

    @rule(number=numbers, size=sizes)
    def peer_writes(self, number, size):
        connection = self.choose(number)
        if connection is None or connection.peer_ended or connection.peer_closed:
            return
        data = connection.make_bytes(connection.peer_sent, size)[:size]
        # The model knows of the bytes before they are on their way.
        before = len(connection.peer_sent)
        connection.peer_sent += data
        try:
            count = connection.peer.send(data)
        except (BlockingIOError, ConnectionError):
            count = 0
        del connection.peer_sent[before + count :]

    @rule(number=numbers, most=sizes)
    def peer_reads(self, number, most):
        connection = self.choose(number)
        if connection is not None:
            connection.drain_peer(most)

    @rule(number=numbers)
    def pause(self, number):
        connection = self.choose(number)
        if connection is not None:
            connection.transport.pause_reading()

    @rule(number=numbers)
    def resume(self, number):
        connection = self.choose(number)
        if connection is not None and not connection.eofs:  # else it comes once more, as in asyncio
            connection.transport.resume_reading()

    @rule(number=numbers)
    def write_eof(self, number):
        connection = self.choose(number)
        if connection is not None and not connection.transport.is_closing():
            connection.ended = True
            try:
                connection.transport.write_eof()
            except OSError:  # of shutdown(), where the peer is gone
                assert connection.peer_closed

    @rule(number=numbers)
    def peer_ends(self, number):
        connection = self.choose(number)
        if connection is not None and not connection.peer_ended:
            connection.peer_ended = True
            try:
                connection.peer.shutdown(socket.SHUT_WR)
            except OSError:
                assert connection.aborted or connection.transport.is_closing()

    @rule(number=numbers)
    def peer_closes(self, number):
        connection = self.choose(number)
        if connection is not None:
            connection.peer_closed = connection.peer_ended = True
            connection.peer.close()

    @rule(number=numbers)
    def close(self, number):
        connection = self.choose(number)
        if connection is not None:
            connection.closed = True
            connection.transport.close()

    @rule(number=numbers)
    def abort(self, number):
        connection = self.choose(number)
        if connection is not None:
            connection.aborted = True
            connection.transport.abort()

    @rule(number=numbers, where=st.sampled_from(["data", "eof", "resume"]))
    def raise_in_callback(self, number, where):
        connection = self.choose(number)
        if connection is not None:
            connection.wants_oops = where

    @rule(number=numbers, reuse=st.booleans())
    def close_fd_behind(self, number, reuse):
        self.wait_for_threads()  # which might be given the number
        connection = self.choose(number)
        if connection is not None and not connection.transport.is_closing():
            connection.fd_closed = True
            # Before any other file gets the number: the loop only knows of those that it accepts or is given.
            if reuse:
                self.connect(close_first=connection.fd)
            else:
                os.close(connection.fd)
            if not reuse or self.connections[-1].fd != connection.fd:
                connection.transport.abort()
            self.until(lambda: connection.over, "connection_lost() is missing")

    @rule(name=st.sampled_from(BACKENDS), inside=st.booleans())
    def set_fdmon(self, name, inside):
        def now():
            self.loop.context.set_fdmon(name)
            assert self.loop.fdmon == name

        if inside:
            self.loop.call_soon(now)
            self.turn()
        else:
            now()

    @rule(size=st.integers(1, 1000), turns=st.integers(0, 2))
    def cancelled_sock_recv(self, size, turns):
        """Bytes are there or not when it is cancelled: they are returned, or still in the socket."""
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            task = self.loop.create_task(self.loop.sock_recv(left, 2000))
            self.turn()
            right.send(b"x" * size)
            self.turn(turns)
            task.cancel()
            self.turn(2)
            assert task.done()
            got = b"" if task.cancelled() else task.result()
            right.shutdown(socket.SHUT_WR)  # a child may have it open, too
            while data := left.recv(4000):
                got += data
            assert got == b"x" * size

    # -- others --

    @rule(
        fdmon=st.sampled_from(BACKENDS),
        verb=st.sampled_from(VERBS),
        where=st.sampled_from(["here", "callback", "thread"]),
    )
    def fork(self, fdmon, verb, where):
        """The child must not be able to do anything to what is the parent's."""

        def now():
            transports = [c.transport for c in self.connections if c.transport is not None and not c.fd_closed]
            outcome = in_a_child(lambda: use_in_child(self.loop, transports, fdmon, verb))
            assert outcome == "all", outcome

        if where == "thread":
            self.accomplices[0].give(now)
        elif where == "callback":
            self.loop.call_soon(now)
        else:
            now()

    @rule(
        who=st.integers(0, 1),
        actions=st.lists(st.tuples(st.sampled_from(ACTIONS), numbers, sizes, st.booleans()), min_size=1, max_size=6),
        wait=st.booleans(),
    )
    def by_a_thread(self, who, actions, wait):
        """What is asked for is done at some time from now on, while other rules go on, or at once."""
        thread = self.accomplices[who]
        for name, number, size, waits in actions:
            if name == "cancel":
                thread.give(thread.cancel_a_receive, size % 2000 + 1, waits)
            else:
                thread.give(thread.ask, functools.partial(self.act, name, number, size), waits)
        if wait:
            thread.wait()

    def wait_for_threads(self):
        for thread in self.accomplices:
            thread.wait()

    def act(self, name, number, size):
        """In the loop."""
        if name == "write":
            self.write(number, size, inside=False)
        elif name == "set_fdmon":
            self.set_fdmon(BACKENDS[number % len(BACKENDS)], inside=False)
        elif name == "fork":
            self.fork(BACKENDS[number % len(BACKENDS)], VERBS[number % len(VERBS)], "here")
        else:
            getattr(self, name)(number)

    # -- the end --

    def teardown(self):
        try:
            self.finish()
        finally:
            for thread in self.accomplices:
                thread.end()
            self.server.close()
            for connection in self.connections:
                connection.peer.close()
            if not self.loop.is_closed():
                self.loop.close()

    def finish(self):
        self.wait_for_threads()
        for thread in self.accomplices:
            assert not thread.wrong, thread.wrong
            assert thread.ran == list(range(thread.asked))
        for connection in self.connections:
            connection.wants_oops = None
            if not connection.over and not connection.fd_closed and not connection.eofs:
                connection.transport.resume_reading()
        self.turn(3)
        for connection in self.connections:
            if connection.over:
                continue
            if not connection.transport.is_closing() and not connection.peer_closed:
                self.until(
                    lambda c=connection: c.over or (c.got == c.peer_sent and c.arrived == c.sent),
                    f"bytes are missing: {len(connection.got)} of {len(connection.peer_sent)} came, "
                    f"{len(connection.arrived)} of {len(connection.sent)} arrived",
                )
            connection.transport.close()
        for connection in self.connections:
            self.until(lambda c=connection: c.over, "connection_lost() is missing")
        for connection in self.connections:
            connection.drain_peer(1 << 30)
            quiet = not (connection.aborted or connection.fd_closed or connection.peer_closed or connection.oopses)
            if quiet and connection.lost == [None]:
                assert connection.arrived == connection.sent
        for details in self.told:
            exc = details.get("exception")
            assert isinstance(exc, Oops | OSError), details
        assert sum(isinstance(details.get("exception"), Oops) for details in self.told) <= self.made * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_random_programs(backend, no_leaks):
    need_fdmon(backend)
    machine = type("Machine", (StreamMachine,), {"backend": backend})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=EXAMPLES < 100,
        ),
    )
