"""Markdown tables of a result: `python -m bench.report results.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import results
from bench.loops import LIMITS
from bench.results import Results

WORDS = ("loop", "workload", "best peer", "calls", "notes")  # columns that are not numbers
NOTE_MAX = 100  # characters of a failure; all of it is in the JSON
MIB_KIB = 1024


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    return number(value, 0 if value is None or value >= 100 else 1)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal. A column without any value is left out."""
    lines = [list(head), *(list(row) for row in rows)]
    columns = [i for i in range(len(head)) if i == 0 or any(line[i] not in ("", "-") for line in lines[1:])]
    lines = [[line[i] for i in columns] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    words = [name in WORDS for name in lines[0]]

    def show(line: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(line, widths, words, strict=True)
        )
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 2) if left else "-" * (w + 1) + ":" for w, left in zip(widths, words, strict=True))
    return "\n".join([show(lines[0]), rule + "|", *(show(line) for line in lines[1:])])


def whole(result: Results) -> str:
    parts = [_machine(result), "## Overview", overview(result)]
    for workload in _with_something_to_say(result):
        parts += [f"## {workload['name']}", one(result, workload)]
    return "\n\n".join(parts)


def overview(result: Results) -> str:
    """A row per workload: this package's loop at its default settings against the others."""
    ours, base = result.ours, result.baseline
    head = ["workload", "operation", "ours/s", f"to {base or 'baseline'}", "best peer", "to best peer", "best setting"]
    head += [f"to {name}" for name in LIMITS]
    settings = [name for name in result.loops if name not in result.peers and name not in LIMITS]

    def row(workload: str, operation: str) -> list[str]:
        if ours is None:
            return [workload, operation, *["-"] * (len(head) - 2)]
        peer, setting = result.best(workload, result.peers), result.best(workload, settings)
        return [
            workload,
            operation,
            rate(result.middle(workload, ours, "per_s")),
            number(result.ratio(workload, ours, base), 2) if base else "-",
            peer or "-",
            number(result.ratio(workload, ours, peer), 2) if peer else "-",
            setting.partition(":")[2] or "default" if setting else "-",
            *(number(result.ratio(workload, ours, name), 2) for name in LIMITS),
        ]

    measured = [w for w in _with_something_to_say(result) if w["name"] not in result.left_out]
    return table(head, [row(w["name"], w["operation"]) for w in measured])


def _with_something_to_say(result: Results) -> list[dict[str, Any]]:
    """An interrupted run has not come to every workload."""
    measured = {sample.workload for sample in result.samples} | set(result.left_out)
    return [workload for workload in result.workloads if workload["name"] in measured]


def one(result: Results, workload: dict[str, Any]) -> str:
    """A row per loop."""
    name, operation = str(workload["name"]), str(workload["operation"])
    if name in result.left_out:
        return f"Left out: {result.left_out[name]}"
    peer = result.best(name, result.peers)
    head = ["loop", f"{operation}/s", "spread %", f"to {result.baseline}", f"to {peer}"]
    head += [
        "p50 us",
        "p99 us",
        "user us",
        "sys us",
        "load busy %",
        "peak MiB",
        "bytes/connection",
        "calls/op",
        "calls",
        "notes",
    ]

    def row(loop: str) -> list[str]:
        def middle(field: str, digits: int, scale: float = 1) -> str:
            value = result.middle(name, loop, field)
            return number(None if value is None else value / scale, digits)

        return [
            loop,
            rate(result.middle(name, loop, "per_s")),
            _spread(result, name, loop),
            number(result.ratio(name, loop, result.baseline), 2) if result.baseline else "-",
            number(result.ratio(name, loop, peer), 2) if peer and peer != result.baseline else "-",
            *(middle(field, 1) for field in ("p50_us", "p99_us")),
            *(middle(field, 2) for field in ("user_us", "sys_us")),
            middle("load_busy", 0, 0.01),
            middle("peak_kib", 1, MIB_KIB),
            middle("connection_bytes", 0),
            middle("calls", 2),
            next((sample.call_names for sample in result.of(name, loop) if sample.call_names), ""),
            _note(result, name, loop),
        ]

    return table(head, [row(loop) for loop in result.loops if result.of(name, loop)])


def _spread(result: Results, workload: str, loop: str) -> str:
    """How far the slowest and the fastest round are apart, in percent of the median."""
    known = [sample.per_s for sample in result.of(workload, loop) if sample.per_s]
    middle = result.middle(workload, loop, "per_s")
    return number((max(known) - min(known)) / middle * 100) if len(known) > 1 and middle else "-"


def _note(result: Results, workload: str, loop: str) -> str:
    failures = [sample.failure for sample in result.of(workload, loop) if sample.failure]
    if not failures:
        return ""
    # The first line says what happened, the last is what the process said about it.
    reason = failures[-1].splitlines()[-1].strip()
    text = f"failed {len(failures)} of {len(result.of(workload, loop))}: {reason}".replace("|", "/")
    return text if len(text) <= NOTE_MAX else text[: NOTE_MAX - 3] + "..."


def _machine(result: Results) -> str:
    machine = result.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    kept = " in processes that live through them" if result.arguments.get("keep") else ""
    lines = [
        f"{result.date}: {machine['cpus']} CPUs of {machine['cpu']}, Linux {machine['kernel']}, {machine['python']},",
        f"{machine['openssl']}; this project at {machine['commit'] or 'no commit'}; {packages}.",
        f"{result.arguments['rounds']} rounds of {result.arguments['seconds']} s{kept}; medians; ratios are",
        "those within a round. CPU time is that of the server's process, per operation.",
    ]
    if machine["environment"]:
        lines.append("Set: " + ", ".join(f"{key}={value}" for key, value in machine["environment"].items()) + ".")
    lines += [f"\nLeft out: {name}: {reason}" for name, reason in result.missing.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(whole(results.load(Path(sys.argv[1]))))
