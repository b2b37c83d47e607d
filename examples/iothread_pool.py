"""A server with slow handlers, in one thread and over a pool of IOThreads.

    python examples/iothread_pool.py [--threads 3]

Clients send a number and get a hash of so many MiB. One asks for a lot, the others for next to nothing, again and
again. In one thread they all wait until the large one is done; over a pool only those that share its thread do. The
program prints how long each waited at most either way, then moves an open connection from thread to thread.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import threading
from time import perf_counter
from typing import Any

import aioqemu_loop

MIB = bytes(1024 * 1024)
LARGE_MIB = 500
SMALL_CLIENTS = 6
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Address = tuple[str, int]


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        digest = hashlib.sha256()
        for _ in range(int(line)):
            digest.update(MIB)  # without the GIL: other threads go on meanwhile, this one's loop does not
        writer.write(f"{digest.hexdigest()[:16]}\n".encode())
        await writer.drain()
    writer.close()


async def ask(streams: Streams, mib: int) -> str:
    reader, writer = streams
    writer.write(b"%d\n" % mib)
    return (await reader.readline()).decode().rstrip()


async def hang_up(streams: Streams) -> None:
    reader, writer = streams
    writer.write_eof()
    await reader.read()  # until the server has closed it
    writer.close()
    await writer.wait_closed()


async def longest_wait(address: Address, begun: asyncio.Event, busy: asyncio.Task[str]) -> float:
    """The longest that a small answer took while `busy` was not done, in seconds."""
    streams = await asyncio.open_connection(*address)
    await begun.wait()
    longest = 0.0
    while not busy.done():
        started = perf_counter()
        await ask(streams, 0)
        longest = max(longest, perf_counter() - started)
    await hang_up(streams)
    return longest


async def clients(address: Address) -> list[float]:
    begun = asyncio.Event()
    large = await asyncio.open_connection(*address)

    async def ask_for_much() -> str:
        begun.set()
        return await ask(large, LARGE_MIB)

    busy = asyncio.create_task(ask_for_much())
    waits = await asyncio.gather(*(longest_wait(address, begun, busy) for _ in range(SMALL_CLIENTS)))
    await hang_up(large)
    return waits


async def measure(title: str, client_thread: aioqemu_loop.IOThread, pool: aioqemu_loop.IOThreadPool | None) -> None:
    options: dict[str, Any] = {} if pool is None else {"iothreads": pool}
    async with await asyncio.start_server(handle, "127.0.0.1", 0, **options) as server:
        waits = await client_thread.run(clients(server.sockets[0].getsockname()))
    print(f"{title}: each client's longest wait, ms: {[round(seconds * 1000) for seconds in sorted(waits)]}")


async def move(pool: aioqemu_loop.IOThreadPool) -> None:
    """One connection, used in each thread in turn."""

    async def use(streams: Streams) -> None:
        print(f"in {threading.current_thread().name}: {await ask(streams, 1)}")

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        streams = await asyncio.open_connection(*server.sockets[0].getsockname())
        await pool[0].adopt(streams[1].transport)  # from this thread
        for i, thread in enumerate(pool):
            if i:
                await pool[i - 1].run(thread.adopt(streams[1].transport))  # from the one before
            await thread.run(use(streams))
        await pool[-1].run(hang_up(streams))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=3)
    arguments = parser.parse_args()
    with (
        aioqemu_loop.IOThread("clients") as client_thread,
        aioqemu_loop.IOThreadPool(arguments.threads, "pool") as pool,
    ):
        aioqemu_loop.run(measure("one thread", client_thread, None))
        aioqemu_loop.run(measure(f"pool of {arguments.threads}", client_thread, pool))
        aioqemu_loop.run(move(pool))


if __name__ == "__main__":
    main()
