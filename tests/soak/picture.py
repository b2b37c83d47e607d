"""A picture of a soak's curves.

python -m tests.soak.picture soak.json soak.svg
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

POINTS = 60  # as many as can be seen
COLOURS = ("#4c78a8", "#f58518", "#54a24b")
# Title, and the curves in it: (name in the samples, label, factor, is it a running total).
PANELS: tuple[tuple[str, tuple[tuple[str, str, float, bool], ...]], ...] = (
    ("memory, MB", (("client rss_mb", "client", 1, False), ("server rss_mb", "server", 1, False))),
    ("file descriptors", (("client fds", "client", 1, False), ("server fds", "server", 1, False))),
    (
        "p99 of each second, ms",
        (
            ("client echo p99_ms", "echo", 1, False),
            ("client timer p99_ms", "timer, client", 1, False),
            ("server timer p99_ms", "timer, server", 1, False),
        ),
    ),
    ("per second", (("operations", "operations", 1, False), ("mb", "100 kB", 10, False))),
    ("CPU, %", (("client cpu_s", "client", 100, True), ("server cpu_s", "server", 100, True))),
)


def thinned(values: Sequence[float]) -> list[float]:
    """At most POINTS medians of as many neighbours each."""
    step = -(-len(values) // POINTS)
    return [median(values[i : i + step]) for i in range(0, len(values), step)]


def curve(samples: list[dict[str, float]], name: str, total: bool) -> tuple[list[float], list[float]]:
    """(minutes, values) where the samples have it; of a running total what came in each second."""
    seen = [(sample["s"], sample[name]) for sample in samples if name in sample]
    if total:
        seen = [(now, (value - old) / (now - before)) for (before, old), (now, value) in itertools.pairwise(seen)]
    return thinned([s / 60 for s, _ in seen]), thinned([value for _, value in seen])


def draw(result: dict[str, Any], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, all_axes = plt.subplots(len(PANELS), figsize=(8, 10), sharex=True, layout="constrained")
    for axes, (title, curves) in zip(all_axes, PANELS, strict=True):
        for (name, label, factor, total), colour in zip(curves, COLOURS, strict=False):
            minutes, values = curve(result["samples"], name, total)
            axes.plot(minutes, [value * factor for value in values], color=colour, label=label, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10, loc="left")
        axes.locator_params(axis="y", nbins=4)
        axes.grid(alpha=0.3, axis="y")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2, fontsize=8, ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result['fdmon']}: {result['connections']:,} connections and everything else at once", fontsize=11
    )
    all_axes[-1].set_xlabel("minutes")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2])
