"""Shows how far a benchmark is, and when it will be done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from bench.judge import Progress


@contextlib.contextmanager
def shown(total_s: float) -> Iterator[Progress]:
    """A bar on stderr if `rich` is there, else a line for each measurement. `total_s` is the sum of all costs."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        yield _lines(total_s)
        return
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    words_last = TextColumn("{task.description}")  # their length changes
    # It draws only when told to: a thread that draws all the time would take a CPU from what is measured.
    with Bar(*columns, words_last, console=Console(stderr=True), auto_refresh=False, speed_estimate_period=600) as bar:
        task = bar.add_task("", total=total_s)
        yield lambda words, cost_s: bar.update(task, advance=cost_s, description=words, refresh=True)


def _lines(total_s: float) -> Progress:
    done = 0.0

    def note(words: str, cost_s: float) -> None:
        nonlocal done
        done += cost_s
        if cost_s:
            print(f"{done / total_s:4.0%} {words}", file=sys.stderr, flush=True)

    return note
