"""What a loop does with the operating system, without a server on the other end: readers, pipes, children, names."""

from __future__ import annotations

import asyncio
import os
import socket

from bench.cases.clock import Case, Clock

PIPE_CHUNK = 1024  # bytes; less than PIPE_BUF, so a write is whole
TRUE = "/bin/true"
NAMES = 20  # between two looks at the clock


async def reader_ping_pong(clock: Clock) -> None:
    """Two sockets, each with a reader that answers. Counted in messages."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    done = loop.create_future()

    def answer(here: socket.socket) -> None:
        here.recv(1)
        if clock.another_one():
            here.send(b"x")
        elif not done.done():
            done.set_result(None)

    with left, right:
        for end in (left, right):
            end.setblocking(False)
            loop.add_reader(end.fileno(), answer, end)  # rloop only takes numbers
        clock.start()
        left.send(b"x")
        await done
        for end in (left, right):
            loop.remove_reader(end.fileno())


async def pipe(clock: Clock) -> None:
    """Through one pipe, from connect_write_pipe to connect_read_pipe. Counted in chunks of 1 KiB."""
    loop = asyncio.get_running_loop()
    chunk = b"x" * PIPE_CHUNK
    done = loop.create_future()

    class Reading(asyncio.Protocol):
        received = 0

        def data_received(self, data: bytes) -> None:
            self.received += len(data)
            if self.received < PIPE_CHUNK or done.done():
                return
            self.received -= PIPE_CHUNK
            if clock.another_one():
                writer.write(chunk)
            else:
                done.set_result(None)

    read_end, write_end = os.pipe()
    files = os.fdopen(read_end, "rb", 0), os.fdopen(write_end, "wb", 0)  # the transports close them
    reader, _ = await loop.connect_read_pipe(Reading, files[0])
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, files[1])
    clock.start()
    writer.write(chunk)
    await done
    writer.close()
    reader.close()
    await asyncio.sleep(0)


async def spawn(clock: Clock) -> None:
    """/bin/true is started and waited for, one after the other. The CPU time is that of this process alone."""
    clock.start()
    while True:
        process = await asyncio.create_subprocess_exec(TRUE)
        if await process.wait():
            raise RuntimeError(f"{TRUE} ended with {process.returncode}")
        if not clock.another_one():
            return


async def getaddrinfo(clock: Clock) -> None:
    """Of a numeric address, which needs no name server: as socket.getaddrinfo() is called most, without hints."""
    await _numeric(clock, 0)


async def getaddrinfo_stream(clock: Clock) -> None:
    """With the type that is wanted, for which some loops have a shorter way."""
    await _numeric(clock, socket.SOCK_STREAM)


async def _numeric(clock: Clock, kind: int) -> None:
    loop = asyncio.get_running_loop()
    clock.start()
    while True:
        for _ in range(NAMES):
            await loop.getaddrinfo("127.0.0.1", 80, type=kind)
        if not clock.another(NAMES):
            return


CASES: dict[str, Case] = {
    case.__name__: case for case in (reader_ping_pong, pipe, spawn, getaddrinfo, getaddrinfo_stream)
}
