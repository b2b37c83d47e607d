"""The client's end of an echo connection: protocols and streams that count what they send and check what comes back."""

from __future__ import annotations

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any

from .payload import HEADER, LARGEST, Checker, Source, Wrong
from .reporting import Report

PLACES = 100  # addresses of this machine that connections go to, so that ports suffice


class Soak:
    """What all loads share."""

    def __init__(self, report: Report, addresses: dict[str, Any], folder: Path, held: int, seed: int) -> None:
        self.report = report
        self.addresses = addresses
        self.folder = folder
        self.held = held  # connections to hold, at least
        self.idle: list[Connection] = []
        self.busy = 0
        self.random = random.Random(seed)
        self.tls = ssl.create_default_context(cafile=str(folder / "both.pem"))
        self.streams = 0

    def new_stream(self) -> int:
        self.streams = (self.streams + 1) & 0xFFFFFFFF
        return self.streams

    def place(self) -> str:
        return f"127.0.0.{self.random.randint(1, PLACES)}"

    def some_size(self) -> int:
        """Mostly small, now and then more than any buffer holds."""
        chance = self.random.random()
        if chance < 0.9:
            return self.random.randrange(2000)
        return self.random.randrange(100_000 if chance < 0.995 else LARGEST)

    def some_sizes(self) -> list[int]:
        return [self.some_size() for _ in range(self.random.choice((1, 1, 1, 2, 5)))]


class Connection(asyncio.Protocol):
    """One end of a connection whose other end sends everything back."""

    transport: Any

    def __init__(self, soak: Soak) -> None:
        self.soak = soak
        self.source = Source(soak.new_stream())
        self.checker = Checker(self.source.stream)
        loop = asyncio.get_running_loop()
        self.lost = loop.create_future()
        self.all_back: asyncio.Future[None] | None = None
        self.aborted = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.soak.report.done["bytes"] += len(data)
        try:
            self.checker.feed(data)
        except Wrong as exc:
            self.soak.report.problem(str(exc))
            self.transport.abort()
        if self.all_back and not self.all_back.done() and self.checker.number == self.source.number:
            self.all_back.set_result(None)

    def eof_received(self) -> None:
        if not self.transport.is_closing() and not self.lost.done() and self.all_back and not self.all_back.done():
            self.soak.report.problem("the server has ended a connection")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.lost.done():
            self.soak.report.problem("connection_lost() a second time")
            return
        if exc is not None and not self.aborted:
            self.soak.report.problem(f"connection_lost({exc!r})")
        self.lost.set_result(None)
        if self.all_back and not self.all_back.done():
            self.all_back.set_result(None)

    def send(self, sizes: list[int]) -> None:
        messages = [self.source.message(size) for size in sizes]
        if len(messages) == 1:
            self.transport.write(messages[0])
        else:
            self.transport.writelines(messages)

    async def round_trip(self, sizes: list[int]) -> None:
        """Sends messages, and waits until they are all back."""
        self.send(sizes)
        self.all_back = asyncio.get_running_loop().create_future()
        await self.all_back
        self.all_back = None
        if self.checker.number != self.source.number and not self.aborted:
            self.soak.report.problem("a connection has ended before everything was back")

    async def close(self) -> None:
        self.transport.close()
        await self.finished()

    async def half_close(self, sizes: list[int]) -> None:
        """The server closes when it has sent everything back."""
        self.send(sizes)
        self.transport.write_eof()
        await self.finished()

    async def abort(self) -> None:
        self.aborted = True
        self.transport.abort()
        await self.lost

    async def finished(self) -> None:
        await self.lost
        if not self.aborted:
            try:
                self.checker.finish(self.source.number)
            except Wrong as exc:
                self.soak.report.problem(str(exc))


async def connect(soak: Soak, kind: str) -> Connection:
    """To the server's listener of this kind."""
    loop = asyncio.get_running_loop()
    address = soak.addresses[kind]
    if kind.startswith("unix"):
        _, connection = await loop.create_unix_connection(lambda: Connection(soak), address)
    elif kind.startswith("tls"):
        _, connection = await loop.create_connection(
            lambda: Connection(soak), soak.place(), address, ssl=soak.tls, server_hostname="localhost"
        )
    else:
        _, connection = await loop.create_connection(lambda: Connection(soak), soak.place(), address)
    return connection


async def some_life(soak: Soak, kind: str) -> None:
    """A connection that is opened, used a little, and ended in one way or another."""
    connection = await connect(soak, kind)
    for _ in range(soak.random.randrange(4)):
        await connection.round_trip(soak.some_sizes())
    await some_end(soak, connection)


async def some_end(soak: Soak, connection: Connection) -> None:
    chance = soak.random.random()
    if chance < 0.4:
        await connection.close()
    elif chance < 0.7 and connection.transport.can_write_eof():
        await connection.half_close(soak.some_sizes())
    else:
        if chance < 0.9:  # with bytes on their way
            connection.send(soak.some_sizes())
        await connection.abort()


async def tcp(soak: Soak) -> None:
    await some_life(soak, soak.random.choice(("echo", "buffered", "streams")))


async def tls(soak: Soak) -> None:
    await some_life(soak, soak.random.choice(("tls", "tls streams")))


async def unix(soak: Soak) -> None:
    await some_life(soak, soak.random.choice(("unix", "unix streams")))


async def held(soak: Soak) -> None:
    """One of many connections that are open for long: mostly a message there and back, rarely its end and another."""
    soak.busy += 1
    try:
        if len(soak.idle) + soak.busy <= soak.held or not soak.idle:
            connection = await connect(soak, soak.random.choice(("echo", "echo", "buffered", "streams")))
        else:
            place = soak.random.randrange(len(soak.idle))
            soak.idle[place], soak.idle[-1] = soak.idle[-1], soak.idle[place]
            connection = soak.idle.pop()
        await connection.round_trip(soak.some_sizes())
        if soak.random.random() < 0.02:
            await some_end(soak, connection)
        elif not connection.lost.done():
            soak.idle.append(connection)
    finally:
        soak.busy -= 1


async def end_held(soak: Soak) -> None:
    """All that are held, with everything they have sent back."""
    connections, soak.idle = soak.idle, []
    for i in range(0, len(connections), 500):
        await asyncio.gather(*(connection.half_close([100]) for connection in connections[i : i + 500]))


async def streams(soak: Soak) -> None:
    """asyncio's streams; reads are cancelled in between."""
    kind = soak.random.choice(("echo", "streams", "tls"))
    more = {"ssl": soak.tls, "server_hostname": "localhost"} if kind == "tls" else {}
    reader, writer = await asyncio.open_connection(soak.place(), soak.addresses[kind], limit=20_000, **more)
    source = Source(soak.new_stream())
    checker = Checker(source.stream)
    for _ in range(soak.random.randrange(6)):
        if soak.random.random() < 0.2:
            await cancelled(reader.readexactly(1))
        writer.writelines([source.message(soak.some_size() % 50_000), source.message(soak.some_size() % 50_000)])
        await writer.drain()
        while checker.number < source.number:
            begins = not checker.rest
            data = await (reader.readexactly(HEADER.size) if begins else reader.read(soak.random.randrange(1, 30_000)))
            soak.report.done["bytes"] += len(data)
            checker.feed(data)
    checker.finish(source.number)
    writer.close()
    await writer.wait_closed()


async def cancelled(coroutine: Any) -> None:
    """It is begun and cancelled while it waits."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    raise Wrong(f"{coroutine} returned although it had nothing to wait for")
