"""Measures workloads on loops: interleaved, in new processes, and with every failure put into words.

The loops take turns within a workload, and the order rotates from round to round, so that a noisy minute hits all
of them.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench import NotMeasured, loops, syscalls
from bench.children import Child
from bench.plan import Plan, nobody
from bench.runners import runner
from bench.samples import Sample, measured
from bench.workloads import Inside, Served, Workload

CHECK_TIMEOUT_S = 20.0
TRIES = 2  # where a workload has only failed on a loop, so often, it is not tried again
TRACE_SECONDS = 0.5
TRACED = -1  # the round of a sample that strace has counted

Progress = Callable[[str, float], None]  # what is being measured now, and the seconds that the last one was to take


@dataclass
class Judge:
    plan: Plan
    workloads: Sequence[Workload]
    names: Sequence[str]  # of loops
    every_setting: bool  # also where backend and poll mode cannot make a difference
    missing: dict[str, str] = field(default_factory=dict)  # loop -> why it cannot be had
    left_out: dict[str, str] = field(default_factory=dict)  # workload -> why it cannot be had
    samples: list[Sample] = field(default_factory=list)

    def prepare(self) -> None:
        """Find out what cannot be measured here, and leave it out."""
        for name in self.names:
            if reason := why_not_loop(name, self.plan):
                self.missing[name] = reason
        for workload in self.workloads:
            try:
                runner(workload).why_not(workload, self.plan)
            except NotMeasured as reason:
                self.left_out[workload.name] = str(reason)

    def pairs(self, turn: int) -> Iterator[tuple[Workload, str]]:
        """What one round measures, in its order."""
        for workload in self.workloads:
            if workload.name in self.left_out:
                continue
            names = [name for name in self.names if name not in self.missing and self._suits(workload, name)]
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                yield workload, name

    def total_s(self, rounds: int, traced: bool) -> float:
        """About how long it all takes."""
        each: list[float] = [runner(workload).cost_s(workload, self.plan) for workload, _ in self.pairs(0)]
        again = self._tracing()
        traces: list[float] = [runner(workload).cost_s(workload, again) for workload, _ in self.pairs(0)]
        return rounds * sum(each) + (sum(traces) if traced else 0.0)

    def measure_round(self, turn: int, progress: Progress) -> None:
        for workload, name in self.pairs(turn):
            before = [s for s in self.samples if (s.workload, s.loop) == (workload.name, name)]
            cost = runner(workload).cost_s(workload, self.plan)
            if len(before) >= TRIES and all(s.failure for s in before):
                progress(f"{workload.name}: {name} is not tried again", cost)
                continue
            progress(f"{workload.name}: {name}", 0.0)
            try:
                answer = runner(workload).run(workload, name, self.plan, nobody)
                sample = measured(workload.name, name, turn, answer)
            except (NotMeasured, ValueError, OSError) as reason:  # ValueError: not the JSON that was promised
                sample = Sample(workload.name, name, turn, str(reason))
            self.samples.append(sample)
            progress(f"{workload.name}: {name}", cost)

    def trace(self, progress: Progress) -> None:
        """Count the system calls, in a run of its own for each pair."""
        plan = self._tracing()
        for workload, name in list(self.pairs(0)):
            if not any(s.per_s for s in self.samples if (s.workload, s.loop) == (workload.name, name)):
                continue  # it failed without strace
            progress(f"strace: {workload.name}: {name}", 0.0)
            self.samples.append(traced(workload, name, plan))
            progress(f"strace: {workload.name}: {name}", runner(workload).cost_s(workload, plan))

    def _tracing(self) -> Plan:
        return replace(self.plan, seconds=min(self.plan.seconds, TRACE_SECONDS), warmup=0.0)

    def _suits(self, workload: Workload, name: str) -> bool:
        if name in loops.LIMITS:
            return isinstance(workload, Served) and workload.limit
        indifferent = isinstance(workload, Inside) and not workload.waits
        return not indifferent or self.every_setting or name not in loops.SETTINGS


def why_not_loop(name: str, plan: Plan) -> str | None:
    """Asked of a process of its own: some peers change asyncio when they are imported."""
    if name in loops.LIMITS:
        return None
    try:
        with Child([sys.executable, "-m", "bench.inside", name, "none"], plan.server_cpu) as child:
            child.read_line(CHECK_TIMEOUT_S)
    except NotMeasured as reason:
        return str(reason).splitlines()[-1].strip()
    return None


def traced(workload: Workload, name: str, plan: Plan) -> Sample:
    counts: Counter[str] = Counter()

    @contextlib.contextmanager
    def watch(pid: int) -> Iterator[None]:
        with syscalls.counted(pid) as found:
            yield
        counts.update(found)

    try:
        answer = runner(workload).run(workload, name, plan, watch)
    except (NotMeasured, ValueError, OSError) as reason:
        return Sample(workload.name, name, TRACED, str(reason))
    calls, words = syscalls.per_item(counts, max(1.0, answer["operations"]))
    return Sample(workload.name, name, TRACED, calls=calls, call_names=words)
