"""Print the table of CPython's own tests for this Python; with --write, put it into docs/compatibility.md as well."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aioqemu_loop

from .exclusions import SAME, as_markdown, left_out
from .runs import Run, modules, run_file, worse

DOCS = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
HEAD = ("file", "left out", "run once already", "stdlib passed")


def rows(pool: Executor, fdmons: list[str]) -> list[list[Any]]:
    """A line per file, and what failed, printed as it comes."""
    table: list[list[Any]] = []
    started = {file: [pool.submit(run_file, file, loop) for loop in (None, *fdmons)] for file in modules()}
    for file, runs in started.items():
        reference, *ours = (run.result() for run in runs)
        if reference.module_skipped:
            print(f"test_{file} is skipped: {reference.module_skipped}", file=sys.stderr)
            continue
        again = [entry.pattern for entry in left_out(file) if entry.reason == SAME]
        same = sum(case.outcome == "left out" and case.detail in again for case in reference.cases.values())
        counts = [reference.count("left out") - same, same, reference.passed]
        table.append([f"test_{file}", *counts, *numbers(file, reference, ours)])
        for name, case in reference.cases.items():
            if case.outcome == "failed":
                print(f"the stdlib's loop fails test_{file} {name}\n{case.detail}", file=sys.stderr)
    return table


def numbers(file: str, reference: Run, ours: list[Run]) -> list[int]:
    """For each backend: passed, failed; and how many tests made a loop of ours."""
    cells: list[int] = []
    for run in ours:
        failed = worse(reference, run)
        cells += [run.passed, len(failed)]
        for name, case in failed.items():
            print(f"FAILED test_{file} {name}\n{case.detail}", file=sys.stderr)
    return [*cells, max(run.on_our_loop for run in ours)]


def markdown(table: list[list[Any]], fdmons: list[str]) -> str:
    head = [*HEAD, *(f"{fdmon} {what}" for fdmon in fdmons for what in ("passed", "failed")), "on our loop"]
    total: list[Any] = ["**all**", *(sum(column) for column in zip(*(row[1:] for row in table), strict=True))]
    lines = [f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *table, total)]
    return "\n".join(lines) + "\n"


def write(name: str, text: str) -> None:
    """Put the text between the marks of that name in the docs."""
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    page, found = marks.subn(lambda match: f"{match[1]}{text}{match[2]}", DOCS.read_text())
    if not found:
        sys.exit(f"{DOCS.name} has no marks for {name!r}")
    DOCS.write_text(page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cpython", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table into docs/compatibility.md")
    wanted = parser.parse_args().write
    if not modules():
        sys.exit("this Python comes without the package test")
    fdmons = [name for name, reason in aioqemu_loop.fdmons().items() if reason is None]
    with ThreadPoolExecutor(2) as pool:
        table = rows(pool, fdmons)
    kernel = ".".join(platform.release().split(".")[:2])
    text = f"CPython {platform.python_version()}, Linux {kernel}:\n\n{markdown(table, fdmons)}"
    print(text)
    if wanted:
        write("CPython {}.{}".format(*sys.version_info), text)
        write("left out", as_markdown())


if __name__ == "__main__":
    main()
