"""10,000 connections, 1,000 TLS handshakes, 300 subprocesses, 1,000 loops: nothing is left, on each backend.

Objects are counted, so one a round would be found at once. The bounds are for plain C memory: 0 to 300 KiB were
measured after a warm-up, and 100 bytes a connection, 1 KiB a handshake (less than the buffer of a TLS record), 4 KiB a
process or 1 KiB a loop would pass them.
"""

from __future__ import annotations

import asyncio

HOST = "127.0.0.1"
MIB = 1 << 20


class Echo(asyncio.Protocol):
    live = 0

    def connection_made(self, transport):
        self.transport = transport
        Echo.live += 1

    def connection_lost(self, exc):
        self.transport.close()  # up to 3.10 a TLS transport that the peer ended warns that it is unclosed
        Echo.live -= 1

    def data_received(self, data):
        self.transport.write(data)


class Client(asyncio.Protocol):
    """Says something, hears it, and closes."""

    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x" * 100)

    def data_received(self, data):
        self.transport.close()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def connections(loop, count, batch, tls=None):
    """`count` connections, `batch` at a time."""
    server = await loop.create_server(Echo, HOST, 0, ssl=tls and tls[0])
    address = server.sockets[0].getsockname()
    options = {"ssl": tls[1], "server_hostname": "localhost"} if tls else {}

    async def one():
        _, client = await loop.create_connection(Client, *address, **options)
        assert await client.lost is None

    for _ in range(count // batch):
        await asyncio.gather(*(one() for _ in range(batch)))
    server.close()
    await server.wait_closed()
    while Echo.live:  # the accepted ones end after their peers
        await asyncio.sleep(0.001)


async def processes(count, batch):
    async def one():
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
        assert await process.communicate(b"x" * 100) == (b"x" * 100, b"")

    for _ in range(count // batch):
        await asyncio.gather(*(one() for _ in range(batch)))


def loops(factory, count):
    for i in range(count):
        loop = factory()
        if i % 2:
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_ten_thousand_connections(loop, leaves_nothing):
    loop.run_until_complete(connections(loop, 1000, 100))
    with leaves_nothing(MIB):
        loop.run_until_complete(connections(loop, 10_000, 100))


def test_a_thousand_tls_handshakes(loop, leaves_nothing, tls):
    loop.run_until_complete(connections(loop, 200, 50, tls))
    with leaves_nothing(MIB):
        loop.run_until_complete(connections(loop, 1000, 50, tls))


def test_three_hundred_subprocesses(loop, leaves_nothing):
    loop.run_until_complete(processes(40, 20))
    with leaves_nothing(MIB):
        loop.run_until_complete(processes(300, 20))


def test_a_thousand_loops(loop_factory, no_leaks, leaves_nothing):
    loops(loop_factory, 100)
    with leaves_nothing(MIB):
        loops(loop_factory, 1000)
