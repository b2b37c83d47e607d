"""Peers that never read, and handlers that never do: back-pressure holds memory to the limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

import aioqemu_loop

CHUNK = bytes(60_000)
HIGH = 65_536  # asyncio's default limit for output that waits
ROUNDS = 100  # chunks that each would send: 6 MB
PEERS = 20


class Pourer(asyncio.Protocol):
    """Writes as much as it may, as fast as it may."""

    def __init__(self, made):
        made.append(self)
        self.left = ROUNDS
        self.paused = False
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.pour()

    def pour(self):
        while self.left and not self.paused:
            self.left -= 1
            self.transport.write(CHUNK)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.pour()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class NeverReading(asyncio.Protocol):
    def connection_made(self, transport):
        # Paused at once, asyncio's TLS would not send the end of its handshake.
        asyncio.get_running_loop().call_soon(transport.pause_reading)


@contextlib.asynccontextmanager
async def never_reading(address, count):
    """Connections whose clients read nothing, and whose kernel buffers are small."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
        yield stack


async def until_quiet(progress):
    """Until progress() has been the same for some turns."""
    seen, same = progress(), 0
    while same < 20:
        await asyncio.sleep(0.005)
        seen, before = progress(), seen
        same = same + 1 if seen == before else 0


def small_buffers(server):
    for sock in server.sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)


def test_protocols(any_loop, run, times, memory):
    async def main():
        made = []
        server = await any_loop.create_server(lambda: Pourer(made), "127.0.0.1", 0)
        small_buffers(server)
        before = memory()
        async with never_reading(server.sockets[0].getsockname(), PEERS * times):
            while len(made) < PEERS * times:
                await asyncio.sleep(0)
            await until_quiet(lambda: sum(pourer.left for pourer in made))
            assert all(pourer.paused and pourer.left > ROUNDS - 10 for pourer in made)
            assert all(pourer.transport.get_write_buffer_size() <= HIGH + len(CHUNK) for pourer in made)
            assert memory() - before < len(made) * (HIGH + len(CHUNK)) / 1e6 + 5
        for pourer in made:
            assert isinstance(await pourer.lost, ConnectionError)
        server.close()

    run(main())


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_streams(any_loop, run, times, memory, tls, encrypted):
    server_tls, client_tls = tls if encrypted else (None, None)
    count = PEERS * times

    async def main():
        written, ends, writers = [0], [], []

        async def serve(reader, writer):
            writers.append(writer)
            try:
                for _ in range(ROUNDS):
                    writer.write(CHUNK)
                    written[0] += len(CHUNK)
                    await writer.drain()
            except ConnectionError as exc:
                ends.append(exc)
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
        small_buffers(server)
        address = server.sockets[0].getsockname()
        before = memory()
        async with contextlib.AsyncExitStack() as stack:
            if encrypted:
                for _ in range(count):
                    sock = socket.socket()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    sock.setblocking(False)
                    await any_loop.sock_connect(sock, address)
                    transport, _ = await any_loop.create_connection(
                        NeverReading, sock=sock, ssl=client_tls, server_hostname="localhost"
                    )
                    stack.callback(transport.abort)
            else:
                await stack.enter_async_context(never_reading(address, count))
            while len(writers) < count:
                await asyncio.sleep(0)
            await until_quiet(lambda: written[0])
            high = writers[0].transport.get_write_buffer_limits()[1]
            # TLS has records below that wait for the socket, and a client that has paused still holds 256 KiB.
            each = high + len(CHUNK) + (700_000 if encrypted else 50_000)
            assert written[0] <= count * each
            assert all(writer.transport.get_write_buffer_size() <= high + len(CHUNK) for writer in writers)
            if isinstance(any_loop, aioqemu_loop.Loop):  # asyncio's TLS holds up to 2 MB for each
                assert memory() - before < count * each / 1e6 + 5
        while len(ends) < count:
            await asyncio.sleep(0.001)
        server.close()

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_handler_that_never_reads(any_loop, run, times, memory, tls, kind):
    """What comes for it waits in the kernel, but for twice the reader's limit and one read."""
    server_tls, client_tls = tls if kind == "tls" else (None, None)
    limit = 10_000
    count = PEERS * times

    async def main():
        readers = []
        over = asyncio.Event()

        async def serve(reader, writer):
            readers.append(reader)
            await over.wait()
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls, limit=limit)
        for sock in server.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        address = server.sockets[0].getsockname()
        before = memory()
        made = []
        for _ in range(count):
            await any_loop.create_connection(
                lambda: Pourer(made), *address, ssl=client_tls, server_hostname="localhost" if client_tls else None
            )
        while len(readers) < count:
            await asyncio.sleep(0)
        await until_quiet(lambda: sum(pourer.left for pourer in made))
        assert all(pourer.paused for pourer in made)
        largest = 262_144  # what one read takes at most
        assert all(len(reader._buffer) <= 2 * limit + largest for reader in readers)
        if isinstance(any_loop, aioqemu_loop.Loop):
            assert memory() - before < count * (0.6 if kind == "tcp" else 1.0) + 5
        over.set()
        for pourer in made:
            await pourer.lost
        server.close()

    run(main())
