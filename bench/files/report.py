"""Markdown tables of a result: a table per workload, a row per way, three columns per depth."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import number, rate, table
from bench.results import Results

NOTE_MAX = 100  # characters of a failure; all of it is in the JSON


def row_name(workload: str, depth: int) -> str:
    """The name under which samples are kept."""
    return f"{workload}@{depth}"


def whole(result: Results, baseline: str) -> str:
    about = result.machine
    arguments = result.arguments
    parts = [
        f"{result.date}: {about['cpus']} CPUs of {about['cpu']}, Linux {about['kernel']}, {about['python']}; "
        f"{arguments['rounds']} rounds of {arguments['seconds']} s, {arguments['size']} MiB, {arguments['count']} "
        f"small files; medians. @N is with N tasks at once; x is to {baseline}; us is CPU time per operation."
    ]
    parts += [f"Left out: {name}: {reason}" for name, reason in result.missing.items()]
    for workload in dict.fromkeys(str(row["workload"]) for row in result.workloads):
        parts += [f"## {workload}", one(result, workload, baseline)]
    return "\n\n".join(parts)


def one(result: Results, workload: str, baseline: str) -> str:
    rows = [row for row in result.workloads if row["workload"] == workload]
    head = ["loop"]
    for row in rows:
        head += [f"{row['operation']}/s @{row['depth']}", f"x @{row['depth']}", f"us @{row['depth']}"]

    def line(way: str) -> Iterator[str]:
        yield way
        for row in rows:
            yield rate(result.middle(row["name"], way, "per_s"))
            yield number(result.ratio(row["name"], way, baseline), 2)
            yield number(cpu_us(result, row["name"], way), 1)
        yield note(result, [row["name"] for row in rows], way)

    ways = [way for way in result.loops if any(result.of(row["name"], way) for row in rows)]
    return table([*head, "notes"], [list(line(way)) for way in ways])


def cpu_us(result: Results, row: str, way: str) -> float | None:
    user, system = result.middle(row, way, "user_us"), result.middle(row, way, "sys_us")
    return None if user is None or system is None else user + system


def note(result: Results, rows: list[str], way: str) -> str:
    failures = [sample.failure for row in rows for sample in result.of(row, way) if sample.failure]
    if not failures:
        return ""
    text = f"failed {len(failures)} times: {failures[-1].splitlines()[-1].strip()}".replace("|", "/")
    return text if len(text) <= NOTE_MAX else text[: NOTE_MAX - 3] + "..."
