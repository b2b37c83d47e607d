"""What poll mode does to latency: an echo over one TCP connection between two processes, with poll mode off and on.

    python examples/busy_polling.py [--messages 5000] [--rounds 5] [--svg busy-polling.svg]

Prints p50 and p99 of each setting, in us. --svg draws how many messages came back within which time (needs matplotlib).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
from multiprocessing.connection import Connection
from time import perf_counter_ns

import aioqemu_loop

MESSAGE = bytes(1024)
WARM_UP = 500  # messages before those that count
SETTINGS = {"off": 0, "on": 32_768}  # poll_max_ns


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


class Client(asyncio.Protocol):
    """Sends a message when the last one is back, and notes how long that took."""

    def __init__(self, messages: int) -> None:
        self.left = messages
        self.waiting_for = 0
        self.times_ns: list[int] = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.waiting_for = len(MESSAGE)
        self.sent_ns = perf_counter_ns()
        self.transport.write(MESSAGE)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.waiting_for -= len(data)
        if self.waiting_for:
            return
        self.times_ns.append(perf_counter_ns() - self.sent_ns)
        self.left -= 1
        if self.left:
            self.send()
        else:
            self.done.set_result(None)


async def serve(ready: Connection) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    ready.send(server.sockets[0].getsockname()[1])
    with contextlib.suppress(EOFError):
        await loop.run_in_executor(None, ready.recv)  # until the other end is closed
    server.close()
    await server.wait_closed()


def server_process(poll_max_ns: int, ready: Connection) -> None:
    aioqemu_loop.run(serve(ready), poll_max_ns=poll_max_ns)


async def ask(port: int, messages: int) -> list[int]:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(lambda: Client(messages + WARM_UP), "127.0.0.1", port)
    await client.done
    transport.close()
    return client.times_ns[WARM_UP:]


def measure(poll_max_ns: int, messages: int) -> list[int]:
    """Times of `messages` round trips, in ns."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=server_process, args=(poll_max_ns, there))
    server.start()
    there.close()
    try:
        return aioqemu_loop.run(ask(here.recv(), messages), poll_max_ns=poll_max_ns)
    finally:
        here.close()
        server.join()


def percentile(times_ns: list[int], percent: int) -> float:
    """In us."""
    return statistics.quantiles(times_ns, n=100)[percent - 1] / 1e3


def draw(times: dict[str, list[int]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for (setting, times_ns), colour in zip(times.items(), ("#4c78a8", "#f58518"), strict=True):
        ordered = sorted(time / 1e3 for time in times_ns)
        step = max(1, len(ordered) // 500)  # as many points as can be seen
        label = f"poll mode {setting}: p50 {percentile(times_ns, 50):.0f} us, p99 {percentile(times_ns, 99):.0f} us"
        shares = [100 * (i + 1) / len(ordered) for i in range(0, len(ordered), step)]
        axes.plot(ordered[::step], shares, color=colour, label=label, linewidth=2)
    axes.set_xscale("log")
    for tick_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        tick_formatter("{x:.0f}")
    axes.set_xlabel("time until the answer, us")
    axes.set_ylabel("% of messages")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=5_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5, help="of both settings in turns")
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    times: dict[str, list[int]] = {setting: [] for setting in SETTINGS}
    for _ in range(arguments.rounds):
        for setting, poll_max_ns in SETTINGS.items():
            times[setting] += measure(poll_max_ns, arguments.messages)
    for setting, times_ns in times.items():
        print(f"poll mode {setting}: p50 {percentile(times_ns, 50):.1f} us, p99 {percentile(times_ns, 99):.1f} us")
    if arguments.svg:
        draw(times, arguments.svg)
        print(arguments.svg)


if __name__ == "__main__":
    main()
