"""Connections that the tests move to another thread."""

from __future__ import annotations

import asyncio
import socket
import threading

PATIENCE = 15.0  # seconds until a wait is a failure


def numbers(first, last):
    return b"".join(b"%07d\n" % i for i in range(first, last))


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    return ours, peer


async def connect(sock, protocol):
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    return transport


async def call(function, *args):
    """As a coroutine, for run()."""
    return function(*args)


def read_exactly(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the end after {len(data)} bytes"
        data += more
    return data


class Recorder(asyncio.Protocol):
    """Notes what it is told, and in which thread."""

    def __init__(self):
        self.data = bytearray()
        self.calls = []
        self.changed = threading.Condition()

    def note(self, name, *args):
        with self.changed:
            self.calls.append((name, threading.get_native_id(), *args))
            self.changed.notify_all()

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), PATIENCE), (self.calls[-5:], len(self.data))

    async def until_in_executor(self, condition):
        await asyncio.get_running_loop().run_in_executor(None, self.until, condition)

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data):
        self.data += data
        self.note("data_received", len(data))

    def eof_received(self):
        self.note("eof_received")
        return True

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, exc):
        self.note("connection_lost", exc)

    def where(self, name):
        """The thread of the one call of this name."""
        (thread,) = [call[1] for call in self.calls if call[0] == name]
        return thread
