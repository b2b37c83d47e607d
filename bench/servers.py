"""One server in one process: `python -m bench.servers LOOP MODE ADDRESS [--tls PEM]`.

Prints "ready ADDRESS" when clients may connect. Serves until it is killed. The modes are the keys of MODES.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

from bench import loops, syscalls

READ_SIZE = 262144  # what asyncio's own transports receive at most at once
# sock_recv allocates what it is asked for. From 128 KiB on malloc maps and unmaps memory for each call.
SOCK_READ_SIZE = 65536
BUFFER_SIZE = 65536  # each connection's own; Python fills it with zeros, so a large one would show in the memory
BACKLOG = 1024

CHUNK = b"x" * 65536  # what a bulk server writes at once
LINE = b"x" * 64  # one buffer of writelines()

Server = Callable[[socket.socket, "ssl.SSLContext | None"], Awaitable[object]]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_SIZE))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: a transport that cannot send at once may keep what it was given, and this buffer is reused.
        self._write(bytes(self._buffer[:nbytes]))


class Lines(asyncio.Protocol):
    """Answers each message with some buffers at once."""

    def __init__(self, count: int) -> None:
        self._lines = [LINE] * count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._writelines = cast(asyncio.WriteTransport, transport).writelines

    def data_received(self, data: bytes) -> None:
        self._writelines(self._lines)


class Swallow(asyncio.Protocol):
    """Takes bytes without end; asyncio.Protocol ignores what it is given."""


class Pour(asyncio.Protocol):
    """Gives bytes without end, as fast as flow control lets it, and takes them too."""

    _paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pour()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pour()

    def _pour(self) -> None:
        """One write at a turn: reading and other connections have to get theirs."""
        if not self._paused and not self._transport.is_closing():
            self._transport.write(CHUNK)
            if not self._paused:
                asyncio.get_running_loop().call_soon(self._pour)


class Close(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Greet(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(b"x")


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._sendto = cast(asyncio.DatagramTransport, transport).sendto

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        self._sendto(data, addr)


async def serve(
    make_protocol: Callable[[], asyncio.BaseProtocol], listener: socket.socket, tls: ssl.SSLContext | None
) -> None:
    loop = asyncio.get_running_loop()
    if listener.type == socket.SOCK_DGRAM:
        await loop.create_datagram_endpoint(cast("Callable[[], DatagramEcho]", make_protocol), sock=listener)
    elif listener.family == socket.AF_UNIX:
        await loop.create_unix_server(make_protocol, sock=listener, backlog=BACKLOG, ssl=tls)
    else:
        await loop.create_server(make_protocol, sock=listener, backlog=BACKLOG, ssl=tls)


async def serve_streams(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
        writer.close()

    start = asyncio.start_unix_server if listener.family == socket.AF_UNIX else asyncio.start_server
    await start(echo, sock=listener, backlog=BACKLOG, ssl=tls)


async def serve_sock(listener: socket.socket, tls: ssl.SSLContext | None) -> None:
    """The sock_* methods, with no transport at all."""
    loop = asyncio.get_running_loop()

    async def echo(client: socket.socket) -> None:
        with client:
            while data := await loop.sock_recv(client, SOCK_READ_SIZE):
                await loop.sock_sendall(client, data)

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.add(asyncio.create_task(echo(client)))

    tasks: set[asyncio.Task[None]] = set()
    tasks.add(asyncio.create_task(accept()))
    # Holds the set: a loop only keeps weak references to its tasks.
    await asyncio.wait(tasks)


def protocol(make: Callable[[], asyncio.BaseProtocol]) -> Server:
    return functools.partial(serve, make)


MODES: dict[str, Server] = {
    "protocol": protocol(Echo),
    "buffered": protocol(BufferedEcho),
    "streams": serve_streams,
    "sock": serve_sock,
    "datagram": protocol(DatagramEcho),
    "swallow": protocol(Swallow),
    "pour": protocol(Pour),
    "writelines-1": protocol(functools.partial(Lines, 1)),
    "writelines-8": protocol(functools.partial(Lines, 8)),
    "writelines-64": protocol(functools.partial(Lines, 64)),
    "close": protocol(Close),
    "greet": protocol(Greet),
}


def tls_context(pem: str | None) -> ssl.SSLContext | None:
    """For a server, of a file with its key and its certificate."""
    if pem is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


async def main(mode: str, address: str, pem: str | None) -> None:
    listener, name = listen(address)
    serving = asyncio.ensure_future(MODES[mode](listener, tls_context(pem)))
    if mode == "sock":
        print(f"ready {name}", flush=True)  # it never ends; clients may connect, because the kernel queues them
        await serving
    await serving
    print(f"ready {name}", flush=True)
    await asyncio.Event().wait()


def listen(address: str) -> tuple[socket.socket, str]:
    """A socket that clients can reach, and the address that it really has. "udp:" before it makes it a datagram one."""
    bare = address.removeprefix("udp:")
    listener = socket.socket(
        socket.AF_UNIX if bare.startswith("/") else socket.AF_INET,
        socket.SOCK_STREAM if bare == address else socket.SOCK_DGRAM,
    )
    if bare.startswith("/"):
        listener.bind(bare)
    else:
        host, _, port = bare.rpartition(":")
        listener.bind((host, int(port)))
        address = address[: len(address) - len(bare)] + "{}:{}".format(*listener.getsockname())
    if listener.type == socket.SOCK_STREAM:
        listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener, address


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("address", help="127.0.0.1:0, the path of a Unix socket, or udp:127.0.0.1:0")
    parser.add_argument("--tls", metavar="PEM")
    words = parser.parse_args()
    syscalls.allow_tracing()
    loops.run(words.loop, main(words.mode, words.address, words.tls))
