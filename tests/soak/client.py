"""The soak's client: all loads at once, and probes of how long things take.

    python -m tests.soak.client FDMON FOLDER INTERVAL PATIENCE CONNECTIONS SEED ADDRESSES

PATIENCE is how many seconds a round may take; ADDRESSES is the JSON that the server has said.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from .connections import Soak, connect, end_held
from .loads import LOADS
from .reporting import PROBE_EVERY, Report, probe_timers, run, say_regularly, until_told_to_stop

PROBE_SIZE = 100  # bytes


async def repeat(soak: Soak, load: Callable[[Soak], Awaitable[None]], stopping: asyncio.Event, patience: float) -> None:
    loop = asyncio.get_running_loop()
    name = load.__name__
    while not stopping.is_set():
        watch = loop.call_later(patience, soak.report.problem, f"{name}: not over after {patience:g} s")
        try:
            await load(soak)
        except Exception as exc:
            soak.report.problem(f"{name}: {exc!r}")
            await asyncio.sleep(0.1)
        watch.cancel()
        soak.report.done[name] += 1


async def probe_echo(soak: Soak) -> None:
    """How long does a message there and back take?"""
    loop = asyncio.get_running_loop()
    connection = await connect(soak, "echo")
    try:
        while True:
            sent = loop.time()
            await connection.round_trip([PROBE_SIZE])
            soak.report.time("echo", loop.time() - sent)
            await asyncio.sleep(PROBE_EVERY)
    finally:
        connection.transport.abort()
        connection.aborted = True


async def work(soak: Soak, interval: float, patience: float) -> None:
    report = soak.report
    stopping = asyncio.Event()
    probes = [
        asyncio.create_task(coroutine)
        for coroutine in (
            probe_timers(report),
            probe_echo(soak),
            say_regularly(report, interval, lambda: {"connections": len(soak.idle) + soak.busy}),
        )
    ]
    working = [
        asyncio.create_task(repeat(soak, load, stopping, patience))
        for load, at_once in LOADS.items()
        for _ in range(at_once)
    ]
    await until_told_to_stop()
    stopping.set()
    _, late = await asyncio.wait(working, timeout=patience)
    await end_held(soak)
    for task in (*late, *probes):
        task.cancel()


def main() -> None:
    fdmon, folder, interval, patience, held, seed, addresses = sys.argv[1:]
    report = Report()
    soak = Soak(report, json.loads(addresses), Path(folder), int(held), int(seed))
    run(report, work(soak, float(interval), float(patience)), fdmon)


if __name__ == "__main__":
    main()
