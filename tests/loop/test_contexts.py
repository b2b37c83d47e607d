"""In which context each callback of a protocol runs, and what it sees of what the ones before it have set: as in this
Python's own loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys

import pytest

HOST = "127.0.0.1"
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Notes:
    """What each callback saw, by the side it belongs to; what may come in several pieces is told once."""

    def __init__(self):
        self.seen = []

    def note(self, side, method):
        entry = (side, method, variable.get())
        if entry not in self.seen:
            self.seen.append(entry)
        variable.set(f"set by {method} of the {side}")

    def protocol(self, side, base=asyncio.Protocol, answer=None):
        """A protocol factory; it notes its callbacks. `answer(transport)` when something came."""
        notes = self
        loop = asyncio.get_running_loop()

        class Protocol(base):
            def connection_made(self, transport):
                notes.note(side, "connection_made")
                self.transport = transport
                self.lost = loop.create_future()

            def data_received(self, data):
                notes.note(side, "data_received")
                answer and answer(self.transport)

            def get_buffer(self, hint):
                notes.note(side, "get_buffer")
                return bytearray(1000)

            def buffer_updated(self, count):
                notes.note(side, "buffer_updated")
                answer and answer(self.transport)

            def datagram_received(self, data, address):
                notes.note(side, "datagram_received")
                answer and answer(self.transport)

            def eof_received(self):
                notes.note(side, "eof_received")

            def pipe_data_received(self, fd, data):
                notes.note(side, "pipe_data_received")

            def pipe_connection_lost(self, fd, exc):
                notes.note(side, "pipe_connection_lost")

            def process_exited(self):
                notes.note(side, "process_exited")

            def connection_lost(self, exc):
                notes.note(side, "connection_lost")
                self.transport.close()
                if not self.lost.done():
                    self.lost.set_result(None)

        def factory():
            notes.note(side, "the factory")
            return Protocol()

        return factory


async def streams(loop, notes, base=asyncio.Protocol, tls=None):
    variable.set("when the server was made")
    accepted = []
    make = notes.protocol("server", base, lambda transport: transport.close())

    def keep():
        accepted.append(make())
        return accepted[0]

    server = await loop.create_server(keep, HOST, 0, ssl=tls and tls[0])
    variable.set("when the client was made")
    options = {"ssl": tls[1], "server_hostname": "localhost"} if tls else {}
    address = server.sockets[0].getsockname()
    transport, client = await loop.create_connection(notes.protocol("client", base), *address, **options)
    variable.set("after that")
    transport.write(b"x")
    await client.lost
    await accepted[0].lost
    server.close()
    await server.wait_closed()


async def buffered_streams(loop, notes):
    await streams(loop, notes, asyncio.BufferedProtocol)


async def datagrams(loop, notes):
    variable.set("when it was made")
    make = notes.protocol("endpoint", asyncio.DatagramProtocol, lambda transport: transport.close())
    transport, protocol = await loop.create_datagram_endpoint(make, local_addr=(HOST, 0))
    variable.set("after that")
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await protocol.lost


async def pipes(loop, notes):
    variable.set("when they were made")
    read_fd, write_fd = os.pipe()
    _, reader = await loop.connect_read_pipe(notes.protocol("reader"), os.fdopen(read_fd, "rb", 0))
    variable.set("between them")
    transport, writer = await loop.connect_write_pipe(
        notes.protocol("writer", asyncio.BaseProtocol), os.fdopen(write_fd, "wb", 0)
    )
    variable.set("after that")
    transport.write(b"x")
    transport.close()
    await writer.lost
    await reader.lost


async def processes(loop, notes):
    variable.set("when it was made")
    make = notes.protocol("process", asyncio.SubprocessProtocol)
    transport, protocol = await loop.subprocess_exec(make, "cat", stderr=None)
    variable.set("after that")
    transport.get_pipe_transport(0).write(b"x")
    transport.get_pipe_transport(0).close()
    await protocol.lost


async def low_level(loop, notes):
    """Readers, writers, timers and signals' relatives: each runs in a copy of the context in which it was set."""
    a, b = socket.socketpair()
    done = loop.create_future()

    def callback(name):
        notes.note(name, "callback")
        if name == "reader":
            loop.remove_reader(a)
            done.set_result(None)
        if name == "writer":
            loop.remove_writer(a)

    with a, b:
        for name, use in (
            ("soon", loop.call_soon),
            ("later", lambda *args: loop.call_later(0.001, *args)),
            ("at", lambda *args: loop.call_at(loop.time(), *args)),
            ("threadsafe", loop.call_soon_threadsafe),
            ("writer", lambda *args: loop.add_writer(a, *args)),
            ("reader", lambda *args: loop.add_reader(a, *args)),
        ):
            variable.set(f"when {name} was set")
            use(callback, name)
        variable.set("after that")
        await asyncio.sleep(0.01)
        b.send(b"x")
        await done


SCENARIOS = [streams, buffered_streams, datagrams, pipes, processes, low_level]


def seen(loop, scenario, *arguments):
    notes = Notes()
    loop.run_until_complete(asyncio.wait_for(scenario(loop, notes, *arguments), 30))
    if sys.version_info < (3, 12):  # a thread waits for the child there, and the context is the thread's
        threads = ("process", "process_exited"), ("process", "connection_lost")
        notes.seen = [entry for entry in notes.seen if entry[:2] not in threads]
    return sorted(notes.seen)  # the order in which two sides, or pipes, hear of something is nobody's promise


@pytest.fixture
def reference(no_leaks):
    loop = asyncio.SelectorEventLoop()
    yield loop
    loop.close()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_contexts_are_the_stdlibs(loop, reference, scenario):
    assert seen(loop, scenario) == seen(reference, scenario)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10's SSLProtocol is another one; ours is as 3.14's")
def test_contexts_over_tls_are_the_stdlibs(loop, reference, tls):
    assert seen(loop, streams, asyncio.Protocol, tls) == seen(reference, streams, asyncio.Protocol, tls)
