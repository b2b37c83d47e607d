"""One echo server in one process: `python -m bench.servers LOOP MODE ADDRESS`.

Prints "ready ADDRESS" when clients may connect. Serves until it is killed.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from bench import loops, syscalls

READ_SIZE = 262144  # what asyncio's own transports receive at most at once
# sock_recv allocates what it is asked for. From 128 KiB on malloc maps and unmaps memory for each call.
SOCK_READ_SIZE = 65536
BACKLOG = 1024

Server = Callable[[socket.socket], Awaitable[object]]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self._write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_SIZE))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.WriteTransport, transport).write

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A copy: a transport that cannot send at once may keep what it was given, and this buffer is reused.
        self._write(bytes(self._buffer[:nbytes]))


async def serve_protocol(listener: socket.socket) -> None:
    await _serve(listener, Echo)


async def serve_buffered(listener: socket.socket) -> None:
    await _serve(listener, BufferedEcho)


async def _serve(listener: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    loop = asyncio.get_running_loop()
    if listener.family == socket.AF_UNIX:
        await loop.create_unix_server(protocol, sock=listener, backlog=BACKLOG)
    else:
        await loop.create_server(protocol, sock=listener, backlog=BACKLOG)


async def serve_streams(listener: socket.socket) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
        writer.close()

    if listener.family == socket.AF_UNIX:
        await asyncio.start_unix_server(echo, sock=listener, backlog=BACKLOG)
    else:
        await asyncio.start_server(echo, sock=listener, backlog=BACKLOG)


async def serve_sock(listener: socket.socket) -> None:
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


MODES: dict[str, Server] = {
    "protocol": serve_protocol,
    "buffered": serve_buffered,
    "streams": serve_streams,
    "sock": serve_sock,
}


async def main(mode: str, address: str) -> None:
    listener, name = listen(address)
    serving = asyncio.ensure_future(MODES[mode](listener))
    # Clients may connect as soon as somebody listens: the kernel queues them.
    print(f"ready {name}", flush=True)
    await serving
    await asyncio.Event().wait()


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening socket, and the address that it really has."""
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        host, _, port = address.rpartition(":")
        listener = socket.socket(socket.AF_INET)
        listener.bind((host, int(port)))
        address = "{}:{}".format(*listener.getsockname())
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener, address


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("address", help="127.0.0.1:0, or the path of a Unix socket")
    words = parser.parse_args()
    syscalls.allow_tracing()
    loops.run(words.loop, main(words.mode, words.address))
