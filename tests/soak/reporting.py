"""What the processes of a soak tell the one that started them: a line of JSON in each interval, and one at the end."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import aioqemu_loop

PROBE_EVERY = 0.01  # seconds


def percentile(values: list[float], percent: float) -> float:
    """The value that `percent` of these do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


class Report:
    """Counts what was done, notes what went wrong, and says both."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()  # operations by name, and "bytes"
        self.problems: list[str] = []
        self.times_ms: dict[str, list[float]] = {}

    def problem(self, text: str) -> None:
        if len(self.problems) < 100:
            self.problems.append(text)

    def handler(self, loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        """The loop's exception handler: nothing may come here."""
        self.problem(f"told the exception handler: {details.get('message')}: {details.get('exception')!r}")

    def time(self, name: str, seconds: float) -> None:
        """What a probe has measured."""
        self.times_ms.setdefault(name, []).append(seconds * 1e3)

    def say(self, **more: Any) -> None:
        """One line; counters and problems begin anew."""
        times = {name: [percentile(values, 50), percentile(values, 99)] for name, values in self.times_ms.items()}
        line = {"done": dict(self.done), "problems": self.problems, "p50_p99_ms": times, **more}
        print(json.dumps(line), flush=True)
        self.done.clear()
        self.problems = []
        self.times_ms.clear()


async def say_regularly(report: Report, interval: float, state: Callable[[], dict[str, Any]]) -> None:
    while True:
        await asyncio.sleep(interval)
        report.say(tasks=len(asyncio.all_tasks()), **state())


async def probe_timers(report: Report) -> None:
    """How late is a timer?"""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + PROBE_EVERY
        await asyncio.sleep(PROBE_EVERY)
        report.time("timer", loop.time() - due)


async def until_told_to_stop() -> None:
    """Until standard input ends."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb")
    )
    await reader.read()
    transport.close()


def number_of_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(report: Report, main: Coroutine[Any, Any, None], fdmon: str) -> None:
    """Runs it, and says at the end what it has left behind."""
    warnings.simplefilter("error", ResourceWarning)
    sys.unraisablehook = lambda args: report.problem(f"unraisable: {args.exc_value!r} in {args.object!r}")

    async def all_of_it() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report.handler)
        if loop.fdmon != fdmon:
            report.problem(f"runs on {loop.fdmon}, not {fdmon}")
        await main
        await asyncio.sleep(0.1)  # what was cancelled ends
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            report.problem(f"a task is left: {task.get_name()}")

    before = number_of_fds()
    aioqemu_loop.run(all_of_it(), fdmon=fdmon)
    gc.collect()
    if number_of_fds() != before:
        report.problem(f"{number_of_fds() - before} file descriptors are left open")
    report.say(end=True)
