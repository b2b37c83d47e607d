"""What else the soak's client does all the time. Each is one round, and raises what is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from zlib import crc32

from aioqemu_loop import files

from . import connections
from .connections import Soak, cancelled
from .payload import BODIES, HEADER, Checker, Source, Wrong


async def sockets(soak: Soak) -> None:
    """sock_connect, sock_sendall, sock_recv, sock_recv_into; a receive is cancelled in between."""
    loop = asyncio.get_running_loop()
    source = Source(soak.new_stream())
    checker = Checker(source.stream)
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (soak.place(), soak.addresses["echo"]))
        room = bytearray(10_000)
        for _ in range(3):
            await cancelled(loop.sock_recv(sock, 100))
            sending = asyncio.ensure_future(loop.sock_sendall(sock, source.message(soak.some_size())))
            while checker.number < source.number:
                count = await loop.sock_recv_into(sock, room)
                soak.report.done["bytes"] += count
                checker.feed(memoryview(room)[:count])
            await sending
        sock.shutdown(socket.SHUT_WR)
        if await loop.sock_recv(sock, 100):
            raise Wrong("bytes after the last message")
    checker.finish(source.number)


async def readers(soak: Soak) -> None:
    """add_reader and add_writer."""
    loop = asyncio.get_running_loop()
    source = Source(soak.new_stream())
    checker = Checker(source.stream)
    over = loop.create_future()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        unsent = memoryview(b"".join(source.message(soak.some_size()) for _ in range(5)))

        def write() -> None:
            nonlocal unsent
            unsent = unsent[left.send(unsent[:30_000]) :]
            if not unsent:
                loop.remove_writer(left)
                left.shutdown(socket.SHUT_WR)

        def read() -> None:
            data = right.recv(20_000)
            soak.report.done["bytes"] += len(data)
            try:
                checker.feed(data)
            except Wrong as exc:
                over.set_exception(exc)
            if not data or over.done():
                loop.remove_reader(right)
                loop.remove_writer(left)
                over.done() or over.set_result(None)

        loop.add_reader(right, read)
        loop.add_writer(left, write)
        await over
    checker.finish(5)


class Datagrams(asyncio.DatagramProtocol):
    """Checks what comes back; some may be lost."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.wrong: list[str] = []
        self.came: set[int] = set()
        self.last = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: object) -> None:
        stream, number, size, checksum = HEADER.unpack_from(data)
        body = data[HEADER.size :]
        if stream != self.stream or size != len(body) or crc32(body) != checksum or number in self.came:
            self.wrong.append(f"datagram {number} of stream {stream}, {len(body)} bytes, came to {self.stream}")
        self.came.add(number)
        if len(self.came) == 10 and not self.last.done():
            self.last.set_result(None)


async def datagrams(soak: Soak) -> None:
    loop = asyncio.get_running_loop()
    source = Source(soak.new_stream())
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Datagrams(source.stream), remote_addr=("127.0.0.1", soak.addresses["udp"])
    )
    for _ in range(10):
        transport.sendto(source.message(soak.random.randrange(1400)))
    try:
        await asyncio.wait_for(protocol.last, 2)
    except asyncio.TimeoutError:
        soak.report.done["datagrams lost"] += 10 - len(protocol.came)
    transport.close()
    if protocol.wrong:
        raise Wrong(protocol.wrong[0])


async def pipes(soak: Soak) -> None:
    """A read pipe and a write pipe."""
    loop = asyncio.get_running_loop()
    source = Source(soak.new_stream())
    checker = Checker(source.stream)
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb"))
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb"))
    for _ in range(5):
        transport.write(source.message(soak.some_size()))
    transport.close()
    while data := await reader.read(50_000):
        soak.report.done["bytes"] += len(data)
        checker.feed(data)
    checker.finish(5)


async def file(soak: Soak) -> None:
    """Written, read by lines of no length, at places, renamed, removed."""
    stream = soak.new_stream()
    source, checker = Source(stream), Checker(stream)
    path = str(soak.folder / f"file-{stream}")
    async with files.open(path, "wb") as out:
        for _ in range(10):
            await out.write(source.message(soak.some_size()))
    await files.rename(path, f"{path}-renamed")
    async with files.open(f"{path}-renamed", "rb") as back:
        while data := await back.read(soak.random.randrange(1, 100_000)):
            soak.report.done["bytes"] += len(data)
            checker.feed(data)
        header = HEADER.unpack(await back.pread(HEADER.size, 0))
        if header[:2] != (stream, 0):
            raise Wrong(f"a file's beginning is {header}")
    await files.remove(f"{path}-renamed")
    checker.finish(10)


async def subprocesses(soak: Soak) -> None:
    """One that sends everything back, one that is killed, one whose end is waited for in vain."""
    pipe = asyncio.subprocess.PIPE
    source = Source(soak.new_stream())
    checker = Checker(source.stream)
    cat = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    out, _ = await cat.communicate(b"".join(source.message(soak.some_size()) for _ in range(5)))
    soak.report.done["bytes"] += len(out)
    checker.feed(out)
    checker.finish(5)
    sleeper = await asyncio.create_subprocess_exec("sleep", "1000")
    await cancelled(sleeper.wait())
    sleeper.kill()
    ends = cat.returncode, await sleeper.wait()
    if ends != (0, -signal.SIGKILL):
        raise Wrong(f"cat and sleep ended with {ends}")


async def timers(soak: Soak) -> None:
    """200, of which half are cancelled."""
    loop = asyncio.get_running_loop()
    ran: list[int] = []

    def callback(number: int, due: float) -> None:
        ran.append(number)
        if loop.time() < due:
            soak.report.problem(f"a timer ran {due - loop.time()} s before its time")

    handles = []
    for number in range(200):
        due = loop.time() + soak.random.random() * 0.05
        handles.append(loop.call_at(due, callback, number, due))
    for handle in handles[1::2]:
        handle.cancel()
    await asyncio.sleep(0.051)
    if sorted(ran) != list(range(0, 200, 2)):
        raise Wrong(f"of 200 timers ran {sorted(ran)}, not every other one once")


async def cancellations(soak: Soak) -> None:
    """Tasks that wait for one thing or another, and are cancelled."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[int] = asyncio.Queue()
    event = asyncio.Event()
    tasks = [
        asyncio.ensure_future(waiting)
        for _ in range(20)
        for waiting in (asyncio.sleep(10), queue.get(), event.wait(), asyncio.wait_for(event.wait(), 10))
    ]
    await asyncio.sleep(soak.random.random() * 0.01)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    if not all(isinstance(result, asyncio.CancelledError) for result in results):
        raise Wrong(f"cancelled tasks ended with {results}")
    started = loop.time()
    try:
        await asyncio.wait_for(event.wait(), 0.01)
    except asyncio.TimeoutError:
        if loop.time() < started + 0.009:
            raise Wrong("wait_for() has not waited") from None


async def executor(soak: Soak) -> None:
    """Work in threads, and calls from there."""
    loop = asyncio.get_running_loop()
    size = soak.some_size()
    called: list[int] = []
    over = loop.create_future()

    def work() -> int:
        for i in range(10):
            loop.call_soon_threadsafe(called.append, i)
        loop.call_soon_threadsafe(over.set_result, None)
        return crc32(BODIES[:size])

    checksum = await loop.run_in_executor(None, work)
    await over
    if (called, checksum) != (list(range(10)), crc32(BODIES[:size])):
        raise Wrong(f"threads: {called}, {checksum}")


# How many do each at once.
LOADS: dict[Callable[[Soak], Awaitable[None]], int] = {
    connections.held: 40,
    connections.tcp: 6,
    connections.tls: 2,
    connections.unix: 3,
    connections.streams: 3,
    sockets: 3,
    readers: 2,
    datagrams: 2,
    pipes: 2,
    file: 3,
    subprocesses: 1,
    timers: 2,
    cancellations: 2,
    executor: 2,
}
