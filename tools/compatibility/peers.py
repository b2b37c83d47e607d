"""What probes share: recording protocols, connected sockets, plain peers in threads, folders, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE = 5.0


class Record(asyncio.Protocol):
    """Notes every call; `made`, `lost` and `got(count)` can be waited for."""

    def __init__(self, on_data: Callable[[Record, bytes], None] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[Any] = loop.create_future()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.changed = asyncio.Event()
        self.calls: list[str] = []
        self.data = bytearray()
        self.keep_open = False
        self.on_data = on_data

    def note(self, name: str) -> None:
        self.calls.append(name)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), PATIENCE)

    async def got(self, count: int) -> bytes:
        await self.until(lambda: len(self.data) >= count)
        return bytes(self.data)

    async def called(self, name: str) -> None:
        await self.until(lambda: name in self.calls)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made.set_result(transport)
        self.note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data_received")
        if self.on_data is not None:
            self.on_data(self, data)

    def eof_received(self) -> bool:
        self.note("eof_received")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("connection_lost")
        self.lost.set_result(exc)


class BufferedRecord(Record, asyncio.BufferedProtocol):
    """The same, with a buffer of its own of 1000 bytes."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(1000)
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data += self.buffer[:count]
        self.note("buffer_updated")


class Datagrams(asyncio.DatagramProtocol):
    """A queue of (data, address), and of errors."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.queue.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def get(self) -> tuple[bytes, Any]:
        return await asyncio.wait_for(self.queue.get(), PATIENCE)


def echo() -> Record:
    return Record(on_data=lambda record, data: record.transport.write(data))


def tcp_pair(receive_buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A socket for the loop, and a blocking peer with a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    ours.setblocking(False)
    peer.settimeout(PATIENCE)
    return ours, peer


async def connected(protocol: Any = None, receive_buffer: int | None = None) -> tuple[Any, Any, socket.socket]:
    """(transport, protocol, plain peer) over TCP. A small receive buffer makes a slow peer."""
    protocol = protocol or Record()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        address = listener.getsockname()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, *address)
        peer, _ = listener.accept()
    peer.settimeout(PATIENCE)
    return transport, protocol, peer


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args))


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (chunk := sock.recv(min(count - len(data), 65536))):
        data += chunk
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    return read_exactly(sock, 1 << 40)


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any] = echo, **keywords: Any) -> AsyncIterator[tuple[Any, tuple[str, int]]]:
    """(server, address): a TCP server of this loop."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, **keywords)
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def later(seconds: float, function: Callable[..., Any], *args: Any) -> None:
    """From another thread, when the loop has had the time to fall asleep."""
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def raised(expected: Any, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """The exception of this type; anything else is a failure."""
    try:
        function(*args, **keywords)
    except expected as error:
        return error
    raise AssertionError(f"no {expected.__name__ if isinstance(expected, type) else expected}")


async def raised_by(expected: Any, awaitable: Any) -> Any:
    try:
        await awaitable
    except expected as error:
        return error
    raise AssertionError(f"no {expected.__name__ if isinstance(expected, type) else expected}")


def kind(thing: object) -> str:
    """For messages: "it is a uvloop.loop.Handle"."""
    return f"it is a {type(thing).__module__}.{type(thing).__qualname__}"
