"""Fixtures for the transports' tests: recording protocols, connected sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import termios
import tty

import pytest

PATIENCE = 15.0  # seconds until a wait is a failure


class Recorder(asyncio.Protocol):
    """Notes every call, and lets a test wait for what it wants to see."""

    def __init__(self, **hooks):
        self.calls = []
        self.data = bytearray()
        self.transport = None
        self.waiting = []
        self.hooks = hooks  # method name -> function(self, *args), called after noting

    def note(self, name, *args):
        self.calls.append((name, *args))
        for condition, future in self.waiting:
            if not future.done() and condition():
                future.set_result(None)
        if name in self.hooks:
            return self.hooks[name](self, *args)

    @property
    def names(self):
        """The calls by name, without the chunks of data."""
        data = ("data_received", "buffer_updated", "datagram_received")
        return [call[0] for call in self.calls if call[0] not in data]

    @property
    def lost(self):
        """The argument of connection_lost; raises where it was not called exactly once."""
        (call,) = [call for call in self.calls if call[0] == "connection_lost"]
        return call[1]

    async def until(self, condition):
        if condition():
            return
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((condition, future))
        await asyncio.wait_for(future, PATIENCE)

    async def until_called(self, name):
        await self.until(lambda: any(call[0] == name for call in self.calls))

    async def until_lost(self):
        await self.until_called("connection_lost")
        await asyncio.sleep(0)

    def connection_made(self, transport):
        self.transport = transport
        return self.note("connection_made")

    def data_received(self, data):
        self.data += data
        return self.note("data_received", data)

    def eof_received(self):
        return self.note("eof_received")

    def connection_lost(self, exc):
        return self.note("connection_lost", exc)

    def pause_writing(self):
        return self.note("pause_writing")

    def resume_writing(self):
        return self.note("resume_writing")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, size=65536, **hooks):
        super().__init__(**hooks)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint):
        if "get_buffer" in self.hooks:
            return self.hooks["get_buffer"](self, sizehint)
        return self.buffer

    def buffer_updated(self, count):
        self.data += self.buffer[:count]
        return self.note("buffer_updated", count)


class DatagramRecorder(Recorder, asyncio.DatagramProtocol):
    """The same for datagrams: `datagrams` has what came as (data, address), `problems` what error_received was told."""

    def __init__(self, **hooks):
        super().__init__(**hooks)
        self.datagrams = []
        self.problems = []

    def datagram_received(self, data, addr):
        self.datagrams.append((data, addr))
        return self.note("datagram_received", data)

    def error_received(self, exc):
        self.problems.append(exc)
        return self.note("error_received", exc)

    async def until_count(self, count):
        await self.until(lambda: len(self.datagrams) >= count)

    @property
    def contents(self):
        return [data for data, _ in self.datagrams]


@pytest.fixture
def recorder():
    return Recorder


@pytest.fixture
def datagram_recorder():
    return DatagramRecorder


@pytest.fixture
def endpoint():
    """await endpoint(protocol, **keywords of create_datagram_endpoint) -> transport of the running loop. A sock is
    taken over: the fixture's user need not close it."""

    async def make(protocol, **keywords):
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: protocol, **keywords)
        return transport

    return make


@pytest.fixture
def buffered_recorder():
    return BufferedRecorder


def fifo_ends(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    # Without O_NONBLOCK each would wait for the other.
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    return reader, os.open(path, os.O_WRONLY)


def socket_ends(tmp_path):
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def terminal_ends(tmp_path):
    master, slave = os.openpty()
    tty.setraw(slave, termios.TCSANOW)
    return slave, master


ENDS = {"pipe": lambda tmp_path: os.pipe(), "fifo": fifo_ends, "socket": socket_ends, "terminal": terminal_ends}


@pytest.fixture
def files():
    """files(fd, mode) -> an unbuffered file, closed at the end if nobody else did."""
    with contextlib.ExitStack() as stack:
        yield lambda fd, mode, closefd=True: stack.enter_context(open(fd, mode, 0, closefd=closefd))


@pytest.fixture(params=ENDS)
def ends(request, tmp_path, files):
    """(file to read from, file to write to) of each kind."""
    reader, writer = ENDS[request.param](tmp_path)
    return files(reader, "rb"), files(writer, "wb")


@pytest.fixture
def pipe_ends(files):
    reader, writer = os.pipe()
    return files(reader, "rb"), files(writer, "wb")


@pytest.fixture
def read_pipe():
    async def make(file, protocol):
        return (await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file))[0]

    return make


@pytest.fixture
def write_pipe():
    async def make(file, protocol):
        return (await asyncio.get_running_loop().connect_write_pipe(lambda: protocol, file))[0]

    return make


@pytest.fixture(scope="session")
def numbered():
    """numbered(size) -> bytes in which every 8 tell their place; at most 4 MB."""
    whole = b"".join(b"%07d\n" % i for i in range(500_000))

    def make(size):
        assert size <= len(whole)
        return whole[: size // 8 * 8]

    return make


@pytest.fixture
def turns():
    """await turns(): let the running loop turn a few times."""

    async def wait(count=5):
        for _ in range(count):
            await asyncio.sleep(0)

    return wait


@pytest.fixture
def reading_can_be_paused(stdlib_is_wrong):
    """For tests that pause reading from datagram endpoints, or ask pipes whether they read."""
    if sys.version_info < (3, 11):
        stdlib_is_wrong((3, 0), "came with 3.11")


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    return ours, peer


@pytest.fixture
def new_tcp_pair():
    return tcp_pair


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    """Two connected sockets: one for a transport, and a plain blocking peer with a timeout."""
    ours, peer = tcp_pair() if request.param == "tcp" else socket.socketpair()
    ours.setblocking(False)
    peer.settimeout(PATIENCE)
    with ours, peer:
        yield ours, peer


@pytest.fixture
def tcp():
    """The same, TCP only."""
    ours, peer = tcp_pair()
    ours.setblocking(False)
    peer.settimeout(PATIENCE)
    with ours, peer:
        yield ours, peer


@pytest.fixture
def connect():
    """await connect(sock, protocol) -> transport of the running loop."""

    async def make(sock, protocol):
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
        return transport

    return make


@pytest.fixture
def new_sslproto(any_loop):
    """Skips the stdlib's loop on 3.10, whose SSLProtocol is another one."""
    if isinstance(any_loop, asyncio.SelectorEventLoop) and sys.version_info < (3, 11):
        pytest.skip("3.10's SSLProtocol is another one")
