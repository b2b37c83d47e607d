"""Pictures of a result: `python -m bench.plots results.json [folder]`. Needs matplotlib.

One SVG per family of workloads (the part of the name before the slash) with operations per second relative to uvloop,
p50.svg and p99.svg of the workloads with one connection, and cpu.svg with CPU time per operation
relative to uvloop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import results
from bench.loops import LIMITS, is_ours
from bench.results import Results

BAR_INCH = 0.16
WIDTH_INCH = 9.0
RATIO_MAX = 4.0  # longer bars are cut, with the number beside them
COLOURS = {
    "asyncio": "#9aa0a6",
    "uvloop": "#4c78a8",
    "rloop": "#b279a2",
    "rsloop": "#e45756",
    "zuvloop": "#72b7b2",
    "c:epoll": "#303030",
    "c:io_uring": "#606060",
}
OURS = ("#f58518", "#ffbf79", "#54a24b", "#88d27a", "#eeca3b", "#f2dc80", "#d67195")

Value = Callable[[str, str], "float | None"]  # of a workload and a loop


def colour(result: Results, loop: str) -> str:
    if loop in COLOURS:
        return COLOURS[loop]
    return OURS[[name for name in result.loops if is_ours(name)].index(loop) % len(OURS)]


def bars(plt: Any, result: Results, workloads: list[str], value: Value, title: str, path: Path, cut: float) -> None:
    """Horizontal bars, the first workload on top; where there is no value there is no bar."""
    rows: list[tuple[float, float, str]] = []  # y, value, loop
    ticks: list[tuple[float, str]] = []
    y = 0.0
    for workload in workloads:
        known = [(loop, found) for loop in result.loops if (found := value(workload, loop)) is not None]
        if not known:
            continue
        ticks.append((y + (len(known) - 1) / 2, workload))
        for loop, found in known:
            rows.append((y, found, loop))
            y += 1
        y += 1.5
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(WIDTH_INCH, 1.2 + BAR_INCH * y), layout="constrained")
    for loop in dict.fromkeys(loop for _, _, loop in rows):
        mine = [(at, found) for at, found, name in rows if name == loop]
        axes.barh(
            [at for at, _ in mine],
            [min(found, cut) for _, found in mine],
            height=0.9,
            color=colour(result, loop),
            hatch="//" if loop in LIMITS else None,
            edgecolor="white",
            label=loop,
        )
    for at, found, _ in rows:
        axes.text(min(found, cut), at, f" {found:,.3g}", va="center", fontsize=6)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def draw(result: Results, folder: Path) -> list[Path]:
    """The files that were drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    names = [str(workload["name"]) for workload in result.workloads if workload["name"] not in result.left_out]
    base = result.baseline or (result.loops[0] if result.loops else "")

    def relative_cpu(workload: str, loop: str) -> float | None:
        mine, other = cpu(workload, loop), cpu(workload, base)
        return mine / other if mine is not None and other else None

    def cpu(workload: str, loop: str) -> float | None:
        parts = [result.middle(workload, loop, field) for field in ("user_us", "sys_us")]
        return sum(part for part in parts if part is not None) if None not in parts else None

    def latency(field: str) -> Value:
        return lambda workload, loop: result.middle(workload, loop, field)

    def relative_rate(workload: str, loop: str) -> float | None:
        return result.ratio(workload, loop, base)

    drawn = []

    def picture(name: str, workloads: list[str], value: Value, title: str, cut: float) -> None:
        path = folder / f"{name}.svg"
        bars(plt, result, workloads, value, title, path, cut)
        if path.exists():
            drawn.append(path)

    for family in dict.fromkeys(name.partition("/")[0] for name in names):
        mine = [name for name in names if name.partition("/")[0] == family]
        picture(family, mine, relative_rate, f"{family}: operations per second, {base} = 1", RATIO_MAX)
    picture("cpu", names, relative_cpu, f"CPU time per operation, {base} = 1 (less is better)", RATIO_MAX)
    for field in ("p50_us", "p99_us"):
        single = [name for name in names if name.split("/")[-1].startswith("1x")]
        words = field.removesuffix("_us")
        picture(words, single, latency(field), f"{words} latency of one connection, us (less is better)", float("inf"))
    return drawn


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    path = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else path.with_suffix("")
    try:
        drawn = draw(results.load(path), folder)
    except ImportError as missing:
        print(f"no pictures: {missing} (pip install matplotlib)", file=sys.stderr)
        return 1
    for picture in drawn:
        print(picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
