"""Draw the tables of docs/performance.md: `make pictures` writes docs/pictures/*.svg. Needs matplotlib.

Nothing is measured here, and no number stands here: what the page does not have is not drawn. Each picture carries a
digest of its numbers, by which a test sees that it is out of date.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "pictures"
COLOURS = {"io_uring": "#f58518", "epoll": "#54a24b", "poll": "#eeca3b", "zuvloop": "#72b7b2", "threads": "#4c78a8"}
COLOURS |= {"rloop": "#b279a2", "rsloop": "#9d755d"}
Bars = dict[str, dict[str, float]]  # of each row, the value of each series


def table(first: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the page's table whose header begins with the cells `first`."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[0], rows[2:]


def number(cell: str) -> float:
    """NaN where there is none, a dash."""
    return float(re.sub(r"[^\d.]", "", cell) or "nan")


def ratios_to_uvloop() -> Bars:
    header, rows = table("| workload | uvloop/s")
    at = {
        "io_uring": header.index("io_uring (default)"),
        "epoll": header.index("epoll"),
        **{name: header.index(name) for name in ("zuvloop", "rloop", "rsloop")},
    }
    return {row[0]: {name: number(row[i]) for name, i in at.items()} for row in rows}


def cpu_to_uvloop() -> Bars:
    header, rows = table("| workload | uvloop/s")
    names = [name.strip() for name in header[-1].partition(":")[2].split(",")]
    found = {}
    for row in rows:
        cells = dict(zip(names, map(number, row[-1].split(", ")), strict=True))
        found[row[0]] = {name: cells[name] / cells["uvloop"] for name in names if name != "uvloop"}
    return found


def files_to_aiofiles() -> Bars:
    header, rows = table("| workload, tasks")
    at = {name: header.index(name) for name in ("io_uring", "epoll", "threads")}
    return {row[0]: {name: number(row[i]) for name, i in at.items()} for row in rows}


def glib_to_gi_events() -> Bars:
    header, rows = table("| | gi.events")
    at = {
        "poll": header.index("poll (classic rule)"),
        "epoll": header.index("epoll"),
        "io_uring": header.index("io_uring kept"),
    }
    return {row[0].replace("`", ""): {name: number(row[i]) for name, i in at.items()} for row in rows}


# file name -> its numbers, its title, and whether the axis is logarithmic
ALL: dict[str, tuple[Callable[[], Bars], str, bool]] = {
    "rates": (ratios_to_uvloop, "Operations per second, uvloop = 1 (more is better)", True),
    "cpu": (cpu_to_uvloop, "CPU time per operation, uvloop = 1 (less is better)", False),
    "files": (files_to_aiofiles, "File operations per second, aiofiles on asyncio = 1 (more is better)", True),
    "glib": (glib_to_gi_events, "Inside GLib: operations per second, PyGObject's gi.events = 1", False),
}


def digest(bars: Bars) -> str:
    return hashlib.sha256(
        repr(sorted((row, sorted(values.items())) for row, values in bars.items())).encode()
    ).hexdigest()[:16]


def draw(plt: Any, bars: Bars, title: str, logarithmic: bool, path: Path) -> None:
    """Horizontal bars, the page's first row on top, with the number at the end of each."""
    series = list(next(iter(bars.values())))
    thick = 0.8 / len(series)
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.12 * len(series) * len(bars)), layout="constrained")
    for i, name in enumerate(series):
        y = [row + i * thick for row in range(len(bars))]
        values = [each[name] for each in bars.values()]
        axes.barh(y, values, height=thick * 0.92, color=COLOURS[name], label=name)
        for at, value in zip(y, values, strict=True):
            if not math.isnan(value):
                axes.text(value, at, f" {value:.3g}", va="center", fontsize=6)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=0.1)
    axes.axvline(1, color="#24292f", linewidth=1)
    axes.set_yticks([row + thick * (len(series) - 1) / 2 for row in range(len(bars))], list(bars), fontsize=8)
    axes.set_ylim(len(bars) - 0.3, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Description": digest(bars), "Date": None})
    plt.close(figure)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "aioqemu_loop"  # the same numbers are the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    for name, (numbers, title, logarithmic) in ALL.items():
        path = PICTURES / f"{name}.svg"
        draw(plt, numbers(), title, logarithmic, path)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
