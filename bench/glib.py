"""asyncio in a GLib main loop: this package's guest beside PyGObject's own loop (gi.events), on the same GLib.

    python -m bench.glib [--rounds 5] [--seconds 0.5] [CASE ...]

Each measurement is a process of its own, the loops take turns, and medians of the rounds are printed: operations per
second, and the ratio to gi.events.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

GUESTS = {"guest": "poll", "guest on epoll": "epoll", "guest on io_uring": "io_uring"}
REFERENCE = "gi.events"
TIMERS = 5000  # set at once
CONNECTIONS = 50
MESSAGE = bytes(1024)

Case = Callable[[float], Awaitable[float]]  # seconds to measure for -> operations per second


@contextlib.contextmanager
def connected(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        for pair in pairs:
            for sock in pair:
                sock.setblocking(False)
                stack.enter_context(sock)
        yield pairs


async def timer_chain(seconds: float) -> float:
    """Each timer sets the next, which is due at once."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    count = 0
    begin = time.perf_counter()

    def fire() -> None:
        nonlocal count
        count += 1
        if time.perf_counter() - begin < seconds:
            loop.call_later(0, fire)
        else:
            done.set_result(count / (time.perf_counter() - begin))

    loop.call_later(0, fire)
    return float(await done)


async def many_timers(seconds: float) -> float:
    """Five thousand at once, which are due within 1 ms, again and again."""
    loop = asyncio.get_running_loop()
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        fired = loop.create_future()
        left = TIMERS

        def fire(fired: asyncio.Future[None] = fired) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                fired.set_result(None)

        for number in range(TIMERS):
            loop.call_later(number * 2e-7, fire)
        await fired
        count += TIMERS
    return count / (time.perf_counter() - begin)


async def readers(seconds: float) -> float:
    """Round trips over a socket pair, whose ends are both watched by add_reader."""
    loop = asyncio.get_running_loop()
    with connected(1) as [(a, b)]:
        done = loop.create_future()
        count = 0
        begin = time.perf_counter()

        def answer() -> None:
            b.send(b.recv(65536))

        def ask_again() -> None:
            nonlocal count
            a.recv(65536)
            count += 1
            if time.perf_counter() - begin < seconds:
                a.send(MESSAGE)
            else:
                done.set_result(count / (time.perf_counter() - begin))

        loop.add_reader(b, answer)
        loop.add_reader(a, ask_again)
        a.send(MESSAGE)
        result = float(await done)
        loop.remove_reader(a)
        loop.remove_reader(b)
        return result


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Client(Echo):
    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


async def protocols(seconds: float, count: int = 1) -> float:
    """Round trips between two protocols over a socket pair."""
    loop = asyncio.get_running_loop()
    with connected(count) as pairs:
        made = [
            (await loop.create_connection(Client, sock=a), await loop.create_connection(Echo, sock=b)) for a, b in pairs
        ]
        begin = time.perf_counter()
        for (transport, _), _ in made:
            transport.write(MESSAGE)
        await asyncio.sleep(seconds)
        result = sum(client.received for (_, client), _ in made) / len(MESSAGE) / (time.perf_counter() - begin)
        for ends in made:
            for transport, _ in ends:
                transport.abort()
        await asyncio.sleep(0.01)
        return result


async def many_protocols(seconds: float) -> float:
    """The same with 50 connections at once."""
    return await protocols(seconds, CONNECTIONS)


CASES: dict[str, Case] = {
    "timer chain": timer_chain,
    "many timers": many_timers,
    "add_reader": readers,
    "protocol": protocols,
    "50 protocols": many_protocols,
}


def measure(name: str, case: Case, seconds: float) -> float:
    """In this process."""
    from gi.repository import GLib

    async def main() -> float:
        await case(seconds / 5)
        return await case(seconds)

    if name == REFERENCE:
        from gi.events import GLibEventLoop

        loop = GLibEventLoop(GLib.MainContext.default())
        with contextlib.closing(loop):
            return float(loop.run_until_complete(main()))
    import aioqemu_loop
    from aioqemu_loop import glib

    own = aioqemu_loop.new_event_loop(fdmon=GUESTS[name])
    own.use_g_source(keep_io_uring=GUESTS[name] != "poll")
    main_loop = GLib.MainLoop()
    with glib.attach(own):
        task = own.create_task(main())
        task.add_done_callback(lambda _: main_loop.quit())
        main_loop.run()
    own.close()
    return task.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.inside:
        print(json.dumps(measure(words.inside, CASES[words.cases[0]], words.seconds)))
        return
    names = [REFERENCE, *GUESTS]
    for case in words.cases or CASES:
        found: dict[str, list[float]] = {name: [] for name in names}
        for round_number in range(words.rounds):
            first = round_number % len(names)
            for name in names[first:] + names[:first]:
                command = [sys.executable, "-m", "bench.glib", "--inside", name, "--seconds", str(words.seconds), case]
                found[name].append(json.loads(subprocess.check_output(command)))
        medians = {name: statistics.median(results) for name, results in found.items()}
        for name, median in medians.items():
            print(f"{case:14} {name:18} {median:12,.0f}/s {median / medians[REFERENCE]:6.2f}", flush=True)


if __name__ == "__main__":
    main()
