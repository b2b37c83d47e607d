"""Somebody else's main loop, with select.poll() inside, and asyncio as one of its sources.

python examples/mainloop.py
"""

from __future__ import annotations

import asyncio
import math
import select

import aioqemu_loop


class MainLoop:
    """Thirty lines of main loop. It knows nothing of asyncio: a source has prepare, poll_fds, check and dispatch."""

    def __init__(self) -> None:
        self.sources: list[aioqemu_loop.GSource] = []
        self.running = False

    def iterate(self) -> None:
        """Sleep until a source has something, and let it run."""
        timeouts = [source.prepare() for source in self.sources]
        limit = min((ns for ns in timeouts if ns is not None), default=None)
        wanted: dict[int, int] = {}
        for source in self.sources:
            for fd, events in source.poll_fds():
                wanted[fd] = wanted.get(fd, 0) | events
        poller = select.poll()
        for fd, events in wanted.items():
            poller.register(fd, events)
        ready = poller.poll(None if limit is None else math.ceil(limit / 1e6))
        for source in self.sources:
            if source.check(ready):
                source.dispatch()

    def run(self) -> None:
        self.running = True
        while self.running:
            self.iterate()


async def ping_pong(rounds: int) -> int:
    """A server and a client of asyncio's, which do not notice who drives them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for i in range(rounds):
            writer.write(b"ping %d\n" % i)
            assert await reader.readline() == b"PING %d\n" % i
        writer.close()
        await writer.wait_closed()
        await served.wait()
    return rounds


def main() -> None:
    main_loop = MainLoop()
    loop = aioqemu_loop.new_event_loop(g_source=True)
    with loop.context.get_g_source() as source:
        main_loop.sources.append(source)

        def done(task: asyncio.Task[int]) -> None:
            print(f"{task.result()} lines there and back, driven by a main loop of its own; fd monitor: {loop.fdmon}")
            main_loop.running = False

        loop.create_task(ping_pong(1000)).add_done_callback(done)
        main_loop.run()
    loop.close()


if __name__ == "__main__":
    main()
