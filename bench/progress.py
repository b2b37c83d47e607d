"""Shows how far a benchmark is, and when it will be done."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from bench.judge import Progress

LINE_EVERY_S = 10.0


@contextlib.contextmanager
def shown(total_s: float) -> Iterator[Progress]:
    """A bar on stderr; lines now and then where that is no terminal, or `rich` is missing. `total_s` is all costs."""
    if not sys.stderr.isatty():
        yield _lines(total_s)
        return
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
    began = printed = time.monotonic()
    done_s = 0.0

    def note(words: str, cost_s: float) -> None:
        nonlocal done_s, printed
        done_s += cost_s
        now = time.monotonic()
        if cost_s and now - printed >= LINE_EVERY_S:
            printed = now
            left_s = (now - began) * (total_s / done_s - 1)
            print(f"{done_s / total_s:4.0%}, {left_s / 60:.0f} min left: {words}", file=sys.stderr, flush=True)

    return note
