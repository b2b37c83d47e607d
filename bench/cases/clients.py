"""The loop under test is the client; the server is fixed, and the same for every loop."""

from __future__ import annotations

import asyncio
from typing import cast

from bench.cases.clock import Case, Clock

MESSAGE = b"x" * 1024
CONNECTIONS = 50
KEY = "key"
VALUE = b"v" * 64


class Ping(asyncio.Protocol):
    """Sends a message, waits for all of its echo, and sends the next, until the clock says so."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        self._missing = len(MESSAGE)
        self.transport.write(MESSAGE)

    def data_received(self, data: bytes) -> None:
        self._missing -= len(data)
        if self._missing or self.done.done():
            return
        if self._clock.another(1):
            self.send()
        else:
            self.done.set_result(None)


async def echo_protocol(clock: Clock) -> None:
    """50 connections at once."""
    loop = asyncio.get_running_loop()
    host, _, port = clock.address.rpartition(":")
    pings = [(await loop.create_connection(lambda: Ping(clock), host, int(port)))[1] for _ in range(CONNECTIONS)]
    clock.start()
    for ping in pings:
        ping.send()
    await asyncio.gather(*(ping.done for ping in pings))
    for ping in pings:
        ping.transport.abort()


async def echo_streams(clock: Clock) -> None:
    """One connection by open_connection()."""
    host, _, port = clock.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    clock.start()
    while True:
        writer.write(MESSAGE)
        await reader.readexactly(len(MESSAGE))
        if not clock.another_one():
            break
    writer.close()
    await writer.wait_closed()


async def redis_get(clock: Clock) -> None:
    """One GET after the other, no pipeline."""
    import redis.asyncio

    host, _, port = clock.address.rpartition(":")
    async with redis.asyncio.Redis(host=host, port=int(port)) as client:
        await client.set(KEY, VALUE)
        clock.start()
        while True:
            if await client.get(KEY) != VALUE:
                raise RuntimeError("redis answered something else")
            if not clock.another_one():
                return


async def asyncpg_select(clock: Clock) -> None:
    """`select 1`, one after the other."""
    import asyncpg  # type: ignore[import-untyped]

    host, _, port = clock.address.rpartition(":")
    connection = await asyncpg.connect(host=host, port=int(port), user="bench", database="postgres", ssl=False)
    clock.start()
    while True:
        if await connection.fetchval("select 1") != 1:
            raise RuntimeError("PostgreSQL answered something else")
        if not clock.another_one():
            break
    await connection.close()


CASES: dict[str, Case] = {case.__name__: case for case in (echo_protocol, echo_streams, redis_get, asyncpg_select)}
