"""A real aiohttp server on each event loop, and a real aiohttp client on the same kind of loop.

    python examples/demo.py [--quick] [--loops aioqemu:io_uring,uvloop]

The client keeps 32 connections busy with a mix of small JSON answers and echoed bodies, and compares every
body with what it must be. The table shows what each loop made of that, and which system calls the server
needed. The demo fails if one body was wrong, or if a server or client crashed, hung, or did not stop when
asked.

Server and client are processes of their own, each on its own CPU. Every loop has several turns, in rounds
with the others, and the table shows medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

try:
    import aiohttp
    from aiohttp import web
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as missing:
    sys.exit(f"{missing}. The demo needs the packages of the group `bench`: pip install --group bench")

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `bench`, which is not installed

from bench import loops, syscalls
from bench.children import CLIENT_CPU, SERVER_CPU, Child, ChildFailed

LOOPS = ("aioqemu:io_uring", "aioqemu:epoll", "aioqemu:poll", "asyncio", "uvloop")
CONNECTIONS = 32
POST_PART = 0.3  # of the requests; the others are GET
BODY_MIN, BODY_MAX = 1024, 65536
REPORT_EVERY = 100  # requests between two lines of progress
WRONG_SHOWN = 3
START_TIMEOUT_S = 20.0
SILENCE_TIMEOUT_S = 15.0  # a client reports progress more often, even with a traced server
NOISE = random.Random(1).randbytes(2 * BODY_MAX)  # bodies are cut from this, so they differ in every byte


@dataclass(frozen=True)
class Plan:
    rounds: int
    requests: int
    warmup: int
    traced: int  # requests while strace counts; 0 is no strace

    @property
    def requests_per_loop(self) -> int:
        return self.rounds * (self.warmup + self.requests) + (self.warmup + self.traced if self.traced else 0)


FULL = Plan(rounds=3, requests=2300, warmup=100, traced=500)
QUICK = Plan(rounds=1, requests=200, warmup=50, traced=0)


# The server: `demo.py --server LOOP`. Prints its port, and stops at SIGTERM.


def item(number: int) -> dict[str, object]:
    return {"number": number, "square": number * number, "name": f"item {number}"}


async def get_item(request: web.Request) -> web.Response:
    return web.json_response(item(int(request.match_info["number"])))


async def post_echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def get_cpu(_: web.Request) -> web.Response:
    """CPU time of this process so far. All its threads count, so a loop cannot hide work in the kernel's."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return web.json_response({"us": (used.ru_utime + used.ru_stime) * 1e6})


async def serve() -> None:
    syscalls.allow_tracing()
    app = web.Application()
    app.add_routes([web.get("/item/{number}", get_item), web.post("/echo", post_echo), web.get("/cpu", get_cpu)])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
    port = listener.getsockname()[1]  # now, because rloop takes the socket away from its owner
    await web.SockSite(runner, listener).start()
    print(port, flush=True)
    await stop.wait()
    await runner.cleanup()


# The client: `demo.py --client LOOP --port N`. Speaks JSON lines with the demo.


@dataclass
class Tally:
    """What came back so far."""

    checked: int = 0
    wrong: list[str] = field(default_factory=list)
    latencies_us: list[float] = field(default_factory=list)

    def note(self, what: str, latency_us: float, problem: str | None) -> None:
        self.checked += 1
        self.latencies_us.append(latency_us)
        if problem is not None:
            self.wrong.append(f"{what}: {problem}")
        if self.checked % REPORT_EVERY == 0:
            say(done=REPORT_EVERY)


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def requests(count: int, seed: int) -> Iterator[tuple[str, bytes | None, bytes]]:
    """Path, body to post or None, and the body that must come back."""
    choose = random.Random(seed)
    for _ in range(count):
        if choose.random() >= POST_PART:
            number = choose.randrange(1_000_000)
            yield f"/item/{number}", None, json.dumps(item(number)).encode()
        else:
            # Even in the logarithm: as many bodies of 1 to 2 KiB as of 32 to 64 KiB.
            size = int(BODY_MIN * (BODY_MAX / BODY_MIN) ** choose.random())
            start = choose.randrange(len(NOISE) - size)
            yield "/echo", NOISE[start : start + size], NOISE[start : start + size]


async def worker(session: aiohttp.ClientSession, todo: Iterator[Any], tally: Tally) -> None:
    for path, body, expected in todo:
        began = perf_counter()
        problem = None
        try:
            async with session.request("POST" if body else "GET", path, data=body) as response:
                answer = await response.read()
            if response.status != 200:
                problem = f"status {response.status}"
            elif answer != expected:
                problem = f"{len(answer)} bytes that differ from the {len(expected)} expected"
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            problem = repr(error)
        tally.note(path, (perf_counter() - began) * 1e6, problem)


async def storm(session: aiohttp.ClientSession, count: int, seed: int) -> Tally:
    """All workers draw from one iterator, so that none is idle before the end."""
    tally, todo = Tally(), requests(count, seed)
    await asyncio.gather(*(worker(session, todo, tally) for _ in range(CONNECTIONS)))
    say(done=count % REPORT_EVERY)
    return tally


async def server_cpu_us(session: aiohttp.ClientSession) -> float:
    async with session.get("/cpu") as response:
        return float((await response.json())["us"])


async def load(port: int, warmup: int, count: int, seed: int) -> None:
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=SILENCE_TIMEOUT_S)
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        first = await storm(session, warmup, seed)
        say(ready=True)
        sys.stdin.readline()  # blocks the loop on purpose: all is quiet until the demo says go
        cpu_us = await server_cpu_us(session)
        began = perf_counter()
        tally = await storm(session, count, seed + 1)
        took = perf_counter() - began
        cpu_us = await server_cpu_us(session) - cpu_us
        ordered = sorted(tally.latencies_us)
        wrong = first.wrong + tally.wrong
        say(
            checked=first.checked + tally.checked,
            wrong=len(wrong),
            wrong_shown=wrong[:WRONG_SHOWN],
            per_s=count / took,
            p50_us=ordered[len(ordered) // 2],
            p99_us=ordered[len(ordered) * 99 // 100],
            cpu_us=cpu_us / count,
        )
        sys.stdin.readline()  # keep the connections, so that closing them is not counted


# The demo itself.


@dataclass
class Outcome:
    """Everything that is known about one loop."""

    samples: list[dict[str, float]] = field(default_factory=list)
    calls: str = "-"
    which: str = ""
    checked: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    def take(self, answer: dict[str, Any]) -> None:
        self.checked += answer["checked"]
        self.wrong += answer["wrong"]
        self.problems += answer["wrong_shown"]

    def middle(self, name: str, scale: float = 1.0, digits: int = 0) -> str:
        if not self.samples:
            return "-"
        return f"{median(sample[name] for sample in self.samples) * scale:,.{digits}f}"


class Demo:
    def __init__(self, plan: Plan, names: list[str], progress: Progress) -> None:
        self.plan = plan
        self.outcomes = {name: Outcome() for name in names}
        self._progress = progress
        self._bar = progress.add_task("", total=plan.requests_per_loop * len(names))
        self._seed = 0

    def run(self) -> None:
        for turn in range(self.plan.rounds):
            for name in self.outcomes:
                self._step(name, f"round {turn + 1} of {self.plan.rounds}: {name}", traced=False)
        for name in self.outcomes if self.plan.traced else ():
            self._step(name, f"system calls: {name}", traced=True)

    def _step(self, name: str, title: str, traced: bool) -> None:
        self._progress.update(self._bar, description=title)
        try:
            self._measure(name, traced)
        except ChildFailed as failed:
            self.outcomes[name].problems.append(str(failed))

    def _measure(self, name: str, traced: bool) -> None:
        count = self.plan.traced if traced else self.plan.requests
        self._seed += 2  # no two runs send the same
        me = [sys.executable, str(Path(__file__).resolve())]
        with Child([*me, "--server", name], SERVER_CPU) as server:
            port = server.read_line(START_TIMEOUT_S)
            words = [port, str(self.plan.warmup), str(count), str(self._seed)]
            with Child([*me, "--client", name, *words], CLIENT_CPU) as client:
                self._follow(client)
                if traced:
                    if not self._trace(name, server, client, count):
                        return
                else:
                    client.send_line("go")
                    answer = self._follow(client)
                    self.outcomes[name].take(answer)
                    self.outcomes[name].samples.append(answer)
                client.send_line("bye")
                self._must_be_0(client, client.wait(START_TIMEOUT_S))
            self._must_be_0(server, server.stop())

    def _trace(self, name: str, server: Child, client: Child, count: int) -> bool:
        """False if strace may not attach. The client then still waits for its go, and is of no more use."""
        outcome = self.outcomes[name]
        try:
            with syscalls.counted(server.pid) as counts:
                client.send_line("go")
                outcome.take(self._follow(client))
        except syscalls.StraceUnavailable as reason:
            outcome.which = str(reason)
            return False
        per_request, outcome.which = syscalls.per_item(counts, count)
        outcome.calls = f"{per_request:.1f}"
        return True

    def _follow(self, client: Child) -> dict[str, Any]:
        """Move the bar until the client says something else than progress."""
        while True:
            words: dict[str, Any] = json.loads(client.read_line(SILENCE_TIMEOUT_S))
            if "done" not in words:
                return words
            self._progress.advance(self._bar, words["done"])

    @staticmethod
    def _must_be_0(child: Child, status: int) -> None:
        if status != 0:
            raise child.failure(f"ended with status {status}")


def table(outcomes: dict[str, Outcome]) -> Table:
    shown = Table(title=f"aiohttp server and client, {CONNECTIONS} connections", title_justify="left")
    shown.add_column("loop")
    for head in ("requests/s", "p50 ms", "p99 ms", "server CPU\nus/request", "system calls\nper request"):
        shown.add_column(head, justify="right")
    shown.add_column("most frequent, per request")
    for name, outcome in outcomes.items():
        ms = 1e-3
        shown.add_row(
            name,
            outcome.middle("per_s"),
            outcome.middle("p50_us", ms, 1),
            outcome.middle("p99_us", ms, 1),
            outcome.middle("cpu_us"),
            outcome.calls,
            outcome.which,
        )
    return shown


def verdict(outcomes: dict[str, Outcome], console: Console) -> int:
    checked = sum(outcome.checked for outcome in outcomes.values())
    wrong = sum(outcome.wrong for outcome in outcomes.values())
    problems = [(name, text) for name, outcome in outcomes.items() for text in outcome.problems]
    for name, text in dict.fromkeys(problems):
        console.print(f"{name}: {text}", style="red", markup=False, highlight=False)
    if wrong:
        console.print(f"{wrong:,} of {checked:,} bodies were wrong", style="bold red", highlight=False)
    elif problems or not checked:
        console.print("not all loops could do their work", style="bold red")
    else:
        console.print(f"all {checked:,} bodies were right", style="bold green", highlight=False)
    return 1 if wrong or problems or not checked else 0


def is_ours(name: str) -> bool:
    return name.startswith("aioqemu:")


def demo(names: list[str], plan: Plan) -> int:
    # Away from a terminal rich assumes 80 columns, which is too few. No emoji, because names have colons.
    console = Console(width=None if sys.stdout.isatty() else 140, emoji=False)
    usable = loops.usable(names, console.print)
    no_strace = syscalls.why_not() if plan.traced else None
    if no_strace:
        plan = replace(plan, traced=0)
    columns = (TextColumn("{task.description:36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Few refreshes: the bar's thread shares a CPU with what is measured.
    with Progress(*columns, console=console, refresh_per_second=3) as progress:
        running = Demo(plan, usable, progress)
        running.run()
    if no_strace:
        for outcome in running.outcomes.values():
            outcome.which = no_strace
    console.print(table(running.outcomes))
    status = verdict(running.outcomes, console)
    if any(map(is_ours, names)) and not any(map(is_ours, usable)):
        console.print("aioqemu_loop itself could not be shown", style="bold red")
        return 1
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default=",".join(LOOPS), help="names as in bench/loops.py")
    parser.add_argument("--quick", action="store_true", help="a few hundred requests, no strace")
    parser.add_argument("--server", metavar="LOOP", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.server:
        loops.run(words.server, serve())
        return 0
    if words.client:
        name, *numbers = words.client
        loops.run(name, load(*map(int, numbers)))
        return 0
    return demo(words.loops.split(","), QUICK if words.quick else FULL)


if __name__ == "__main__":
    sys.exit(main())
