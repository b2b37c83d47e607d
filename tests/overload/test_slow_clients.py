"""Slowloris: many connections that send a byte now and then cost the others nothing but the bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ..transports.helpers import in_executor, read_to_end

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Http(asyncio.Protocol):
    """Answers each request when its empty line has come."""

    open = 0

    def connection_made(self, transport):
        Http.open += 1
        self.transport = transport
        self.got = b""

    def data_received(self, data):
        self.got += data
        while b"\r\n\r\n" in self.got:
            self.got = self.got.partition(b"\r\n\r\n")[2]
            self.transport.write(ANSWER)

    def connection_lost(self, exc):
        Http.open -= 1


@pytest.fixture
def slow_ones(many_fds, times):
    """How many connections send a byte now and then."""
    return 500 * times


@asynccontextmanager
async def crowd(address, count) -> AsyncIterator[list[socket.socket]]:
    """`count` connections of plain sockets, which the loop's server has not heard of yet."""
    sockets = []
    try:
        for i in range(count):
            sockets.append(socket.create_connection(address))
            if i % 50 == 0:  # they are accepted meanwhile
                await asyncio.sleep(0)
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


async def be_served(address, requests):
    """One that knows how to behave."""
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(requests):
        writer.write(REQUEST)
        assert await reader.readexactly(len(ANSWER)) == ANSWER
    writer.close()
    await writer.wait_closed()


def test_everybody_is_served_in_the_end(any_loop, run, slow_ones):
    """The quick ones while the slow ones are at it; the slow ones when their requests are complete."""
    Http.open = 0

    async def main():
        server = await any_loop.create_server(Http, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with crowd(address, slow_ones) as slow:
            quick = [asyncio.ensure_future(be_served(address, 50)) for _ in range(5)]
            for i in range(8):
                for sock in slow:
                    sock.send(REQUEST[i : i + 1])
                await asyncio.sleep(0)
            await asyncio.gather(*quick)
            assert Http.open >= slow_ones
            for sock in slow:
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
                sock.send(REQUEST[8:])
            for sock in slow:
                assert await any_loop.sock_recv(sock, 1000) == ANSWER
        server.close()
        while Http.open:
            await asyncio.sleep(0.001)

    run(main())


def test_a_deadline_gets_rid_of_the_slow_ones(any_loop, run, slow_ones, times):
    """Handlers with streams and wait_for(): the slow ones are cut off, the quick ones do not notice."""
    cut_off = []

    async def serve(reader, writer):
        try:
            while True:
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2 * times)
                writer.write(ANSWER)
        except asyncio.TimeoutError:
            cut_off.append(writer)
        except asyncio.IncompleteReadError as exc:
            assert exc.partial == b""
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        async with crowd(address, slow_ones // 5) as slow:
            quick = [asyncio.ensure_future(be_served(address, 50)) for _ in range(5)]
            for sock in slow:
                sock.send(REQUEST[:-1])
            await asyncio.gather(*quick)
            for sock in slow:
                assert await in_executor(read_to_end, sock) == b""
            assert len(cut_off) == len(slow)
        server.close()

    run(main())
