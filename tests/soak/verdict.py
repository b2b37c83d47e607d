"""What the curves of a soak must look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile
from statistics import median


@dataclass(frozen=True)
class Limits:
    """How much a curve may grow after the warm-up, as a share of what it was or in its own unit, whichever is more,
    and what the probes may measure."""

    growth: float = 0.05
    memory_mb: float = 8.0
    fds: float = 100.0
    p99_ms: float = 500.0  # in most seconds
    quiet: float = 0.25  # the share of the samples that are warm-up


def growth(curve: Sequence[float], warm_up: float) -> tuple[float, float]:
    """(where it was after the warm-up, how much more it is at the end): medians of the first and the last third."""
    curve = curve[int(len(curve) * warm_up) :]
    third = max(1, len(curve) // 3)
    start = median(curve[:third])
    return start, median(curve[-third:]) - start


def judge(samples: Sequence[dict[str, float]], limits: Limits, connections: int = 0) -> list[str]:
    """What is wrong with these samples since there were as many connections; empty if nothing is."""
    samples = list(dropwhile(lambda sample: sample.get("client connections", 0) < connections, samples))
    if len(samples) < 4:
        return [f"{len(samples)} samples are too few"]
    wrong = []
    for name in dict.fromkeys(name for sample in samples for name in sample):
        curve = [sample[name] for sample in samples if name in sample]
        floor = limits.memory_mb if name.endswith("rss_mb") else limits.fds if name.endswith("fds") else None
        if floor is not None:
            start, more = growth(curve, limits.quiet)
            if more > max(limits.growth * start, floor):
                wrong.append(f"{name} has grown by {more:.1f} from {start:.1f}")
        if name.endswith("p99_ms"):
            usual = median(curve[int(len(curve) * limits.quiet) :])
            if usual > limits.p99_ms:
                wrong.append(f"{name} is {usual:.0f} ms, more than {limits.p99_ms:.0f}")
    return wrong
