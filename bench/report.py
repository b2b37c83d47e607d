"""What a benchmark leaves behind: a Markdown table, and a JSON file that says where the numbers came from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from bench.children import ROOT

BASELINE = "uvloop"
PACKAGES = ("aioqemu-loop", "uvloop", "rloop", "aiohttp", "Cython")


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what was measured, None if nothing was."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(values: Sequence[float | None], base: Sequence[float | None]) -> str:
    """The median of the ratios within each round.

    Not the ratio of the medians: a shared machine changes its speed between rounds, more than loops differ.
    """
    pairs = zip(values, base, strict=False)  # no base at all where the baseline was left out
    known = middle(value / other for value, other in pairs if value is not None and other)
    return "-" if known is None else f"{known:.2f}"


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal. The first column and "calls" are words."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    words = [i == 0 or name == "calls" for i, name in enumerate(head)]

    def show(line: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(line, widths, words, strict=True)
        )
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join("-" * (w + 2) if left else "-" * (w + 1) + ":" for w, left in zip(widths, words, strict=True))
    return "\n".join([show(lines[0]), rule + "|", *(show(line) for line in lines[1:])])


def machine() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "packages": _packages(),
        # These change what the loop does, so a result without them cannot be compared.
        "environment": {key: value for key, value in os.environ.items() if key.startswith("AIOQEMU_")},
    }


def save(kind: str, arguments: dict[str, object], samples: list[dict[str, object]]) -> Path:
    """Write every single sample, not only medians, to bench/results/."""
    now = datetime.datetime.now(datetime.timezone.utc)
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}-{now:%Y%m%d-%H%M%S}.json"
    content = {
        "kind": kind,
        "date": now.isoformat(timespec="seconds"),
        "machine": machine(),
        "arguments": arguments,
        "samples": samples,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
