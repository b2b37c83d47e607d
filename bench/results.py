"""The JSON file of a benchmark: written by __main__, read by the report and the plots."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.loops import BASELINE, LIMITS, is_ours
from bench.samples import Sample

FORMAT = 2  # 1 had a file for each of two kinds of benchmark


@dataclass
class Results:
    date: str
    machine: dict[str, Any]
    arguments: dict[str, Any]
    loops: list[str]  # in the order of the tables
    workloads: list[dict[str, Any]]  # name, operation, kind and parameters
    missing: dict[str, str] = field(default_factory=dict)  # loop -> why it was left out
    left_out: dict[str, str] = field(default_factory=dict)  # workload -> why it was left out
    samples: list[Sample] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    def of(self, workload: str, loop: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.workload, sample.loop) == (workload, loop)]

    def middle(self, workload: str, loop: str, field: str) -> float | None:
        """The median over the rounds of what was measured, None if nothing was."""
        known = [value for sample in self.of(workload, loop) if (value := getattr(sample, field)) is not None]
        return median(known) if known else None

    def ratio(self, workload: str, loop: str, base: str) -> float | None:
        """Operations per second: the median of the ratios within each round.

        Not the ratio of the medians: a shared machine changes its speed between rounds, more than loops differ.
        """
        bases = {sample.round: sample.per_s for sample in self.of(workload, base)}
        pairs = [(sample.per_s, bases.get(sample.round)) for sample in self.of(workload, loop)]
        known = [value / other for value, other in pairs if value and other]
        return median(known) if known else None

    def best(self, workload: str, among: list[str]) -> str | None:
        """The fastest of these loops, by their medians."""
        known = {name: value for name in among if (value := self.middle(workload, name, "per_s"))}
        return max(known, key=lambda name: known[name]) if known else None

    @property
    def peers(self) -> list[str]:
        return [name for name in self.loops if not is_ours(name) and name not in LIMITS]

    @property
    def ours(self) -> str | None:
        """The one of this package that the overview speaks of: default settings, or else the first."""
        return next((name for name in sorted(filter(is_ours, self.loops), key=len)), None)

    @property
    def baseline(self) -> str | None:
        return BASELINE if BASELINE in self.loops else None


def load(path: Path) -> Results:
    content = json.loads(path.read_text())
    if content.pop("format", 1) != FORMAT:
        raise ValueError(f"{path} is not of this version of the benchmark")
    samples = [Sample(**sample) for sample in content.pop("samples")]
    return Results(**content, samples=samples)
