"""The live view of `monitor PATH`: loops, what they are busy with, their tasks and connections."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aioqemu_loop.monitor.client import Client
from aioqemu_loop.monitor.figures import Rates, bars, count, duration, percentile, upper_bound_ns

# What is asked for each time: a view must not cost the program much, whatever its size.
MAX_TASKS = 500
MAX_TRANSPORTS = 200
MAX_BUSIEST = 20
# For how long callbacks are timed.
BUSIEST_MS = 50
# More are counted only.
MAX_LOOPS = 4
# Buckets of the lag's histogram above which their lower bound stands.
LABELLED_BUCKETS = (1, 7, 13, 19)


@dataclass
class Snapshot:
    """What the monitor answered at one moment."""

    time: float
    loops: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    tasks: list[dict[str, Any]]
    transports: list[dict[str, Any]]
    busiest: list[dict[str, Any]]
    # Loop -> the innermost frame of its thread, of those that are stalled.
    places: dict[str, dict[str, Any]] = field(default_factory=dict)


def take(client: Client) -> Snapshot:
    loops = client.execute("query-loops")
    metrics = {entry["loop"]: entry["metrics"] for entry in client.execute("query-metrics")}
    snapshot = Snapshot(
        time.monotonic(),
        [loop for loop in loops if loop["id"] in metrics],
        metrics,
        client.execute("query-tasks", {"limit": MAX_TASKS, "stacks": False}),
        client.execute("query-transports", {"limit": MAX_TRANSPORTS}),
        client.execute("query-busiest", {"limit": MAX_BUSIEST, "milliseconds": BUSIEST_MS}),
    )
    if any(loop["stalled"] for loop in loops):
        stacks = {thread["thread-id"]: thread["stack"] for thread in client.execute("dump-stacks")["threads"]}
        for loop in loops:
            if loop["stalled"] and stacks.get(loop["thread-id"]):
                snapshot.places[loop["id"]] = stacks[loop["thread-id"]][-1]
    client.events.clear()
    return snapshot


def show(client: Client, path: str, interval: float) -> int:
    """Until Ctrl-C. Where the output is no terminal: what happens in one interval, once."""
    version = client.execute("query-version")["package"]
    console = plain_console()
    before = take(client)
    if not console.is_terminal:
        time.sleep(interval)
        console.print(render(before, take(client), version, path))
        return 0
    try:
        page = render(before, before, version, path, console.height)
        with Live(page, console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                now = take(client)
                live.update(render(before, now, version, path, console.height), refresh=True)
                before = now
    except KeyboardInterrupt:
        return 0


def plain_console(**options: Any) -> Console:
    """One that prints names as they are: "[fe80::1]:443" is no markup, ":cat:" no picture."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def render(before: Snapshot, now: Snapshot, version: str, path: str, height: int = 24) -> RenderableType:
    """The page, in not more than `height` lines; 80 columns and 24 lines are enough."""
    rates = {}
    seconds = now.time - before.time
    if seconds > 0:
        for loop, metrics in now.metrics.items():
            if loop in before.metrics:
                rates[loop] = Rates(before.metrics[loop], metrics, seconds)
    title = Text.assemble((version, "bold"), "  ", (path, "cyan"), no_wrap=True, overflow="ellipsis")
    shown = min(MAX_LOOPS, len(now.loops))
    above = 1 + 2 * (1 + shown) + (len(now.loops) > shown)
    # Three lists, each with a heading and a line that counts what it leaves out.
    rows = max(1, (height - above) // 3 - 2)
    return Group(title, *_loops(now, rates), _busiest(now, rows), _tasks(now, rows), _transports(now, rows))


def _table(*columns: tuple[str, str, int | None]) -> Table:
    """columns: (heading, "left" or "right", width or None for what is left)."""
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold reverse", padding=(0, 1, 0, 0))
    for heading, side, width in columns:
        justify: Any = side
        table.add_column(
            heading, justify=justify, width=width, ratio=1 if width is None else None, no_wrap=True, overflow="ellipsis"
        )
    return table


def _loops(now: Snapshot, rates: dict[str, Rates]) -> list[RenderableType]:
    table = _table(
        ("loop", "left", 7),
        ("thread", "left", None),
        ("fdmon", "left", 8),
        ("tasks", "right", 6),
        ("calls/s", "right", 8),
        ("syscalls/s", "right", 10),
        ("busy", "right", 5),
        ("longest", "right", 8),
    )
    below: list[RenderableType] = []
    for loop in now.loops[:MAX_LOOPS]:
        name = loop["id"]
        rate = rates.get(name)
        style = "bold red" if loop["stalled"] else "" if loop["running"] else "dim"
        table.add_row(
            name,
            loop["iothread"] or loop["thread"] or "not running",
            loop["fdmon"],
            count(loop["tasks"]),
            "" if rate is None else count(rate.per_second("callbacks")),
            "" if rate is None else count(rate.per_second("system_calls")),
            "" if rate is None else f"{rate.busy:.0%}",
            duration(now.metrics[name]["busy_max_ns"]),
            style=style,
        )
        below.append(_stall(loop, now.places.get(name)) if loop["stalled"] else _lag(name, rate))
    hidden = len(now.loops) - MAX_LOOPS
    if hidden > 0:
        below.append(Text(f"and {hidden} more loops", style="dim"))
    return [table, _lag_heading(), *below]


def _lag_heading() -> Table:
    labels = ""
    for bucket in LABELLED_BUCKETS:
        labels = labels.ljust(bucket) + duration(upper_bound_ns(bucket - 1))
    return _table((f"{'lag':8}{labels:24}{'50%':>12}{'99%':>12}", "left", None))


def _lag(name: str, rate: Rates | None) -> Text:
    """For how long the loop did not look, of each time that it did: a bar for each power of two."""
    if rate is None:
        return Text(name)
    histogram = rate.histogram
    found = [percentile(histogram, part) for part in (0.5, 0.99)]
    figures = "".join(f"{'' if ns is None else '<' + duration(ns):>12}" for ns in found)
    return Text.assemble(f"{name:8}", (bars(histogram), "green"), figures)


def _stall(loop: dict[str, Any], place: dict[str, Any] | None) -> Text:
    where = "" if place is None else f" in {place['function']} ({place['file']}:{place['line']})"
    text = Text(f"{loop['id']:8}stalled for {loop['stalled']:.1f}s{where}", style="bold red", no_wrap=True)
    text.overflow = "ellipsis"
    return text


def _busiest(now: Snapshot, rows: int) -> Table:
    """The callbacks that loops spend their time in, of all loops together."""
    table = _table(
        ("busy", "right", 6),
        ("callbacks of", "left", None),
        ("loop", "left", 7),
        ("calls", "right", 6),
        ("each", "right", 8),
    )
    ordered = sorted(now.busiest, key=lambda entry: -entry["seconds"])
    for entry in ordered[:rows]:
        each = duration(entry["seconds"] * 1e9 / entry["calls"])
        table.add_row(f"{entry['share']:.1%}", entry["callback"], entry["loop"], count(entry["calls"]), each)
    hidden = len(ordered) - rows
    if hidden > 0:
        table.add_row("", Text(f"and {hidden} more", style="dim"))
    return table


def _tasks(now: Snapshot, rows: int) -> Table:
    """Tasks of the same coroutine in the same state are one line, the largest groups first."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = collections.defaultdict(list)
    for task in now.tasks:
        waits_for = task["waiting-for"]
        what = "" if waits_for is None else waits_for["task"] or waits_for["type"].rpartition(".")[2]
        groups[task["coroutine"], task["state"], what].append(task)
    table = _table(
        ("tasks", "right", 6),
        ("coroutine", "left", None),
        ("state", "left", 8),
        ("waits for", "left", 16),
        ("oldest", "right", 8),
    )
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (coroutine, state, what), tasks in ordered[:rows]:
        ages = [task["age"] for task in tasks if task["age"] is not None]
        table.add_row(str(len(tasks)), coroutine, state, what, duration(max(ages) * 1e9) if ages else "")
    hidden = sum(len(tasks) for _, tasks in ordered[rows:])
    if hidden:
        table.add_row(count(hidden), Text("more", style="dim"))
    return table


def _transports(now: Snapshot, rows: int) -> Table:
    """Those with the most output that nobody takes first."""
    table = _table(
        ("fd", "right", 6),
        ("kind", "left", 13),
        ("peer, or own address", "left", None),
        ("buffered", "right", 9),
        ("state", "left", 24),
    )
    ordered = sorted(now.transports, key=lambda transport: -transport["buffered"])
    for transport in ordered[:rows]:
        paused = [word for word in ("reading", "writing") if transport[f"{word}-paused"]]
        state = "closing" if transport["closing"] else f"paused: {', '.join(paused)}" if paused else ""
        kind = transport["kind"] + ("+tls" if transport["tls"] else "")
        table.add_row(
            str(transport["fd"]),
            kind,
            transport["peer"] or transport["local"] or "",
            count(transport["buffered"]),
            state,
        )
    hidden = len(ordered) - rows
    if hidden > 0:
        table.add_row("", "", Text(f"and {hidden} more", style="dim"))
    return table
