"""Measures workloads on loops: interleaved, and with every failure put into words.

The loops take turns within a workload, and the order rotates from round to round, so that a noisy minute hits all
of them. Each measurement has new processes; or those of a workload live through all its rounds, which may then be many
and short, so that also a noisy second hits all.
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
from bench.runners import Measure, runner
from bench.samples import Sample, measured
from bench.workloads import Inside, Served, Workload

CHECK_TIMEOUT_S = 20.0
TRIES = 2  # where a workload has only failed on a loop, so often, it is not tried again
TRACE_SECONDS = 0.5
TRACED = -1  # the round of a sample that strace has counted
FAILURES = (NotMeasured, ValueError, OSError)  # ValueError: not the JSON that was promised

Progress = Callable[[str, float], None]  # what is being measured now, and the seconds that the last one was to take


@dataclass
class Judge:
    plan: Plan
    workloads: Sequence[Workload]
    names: Sequence[str]  # of loops
    every_setting: bool  # also where backend and poll mode cannot make a difference
    keep: bool = False  # the processes of a workload live through all its rounds
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
            if workload.name not in self.left_out:
                yield from ((workload, name) for name in self._order(workload, turn))

    def _order(self, workload: Workload, turn: int) -> list[str]:
        names = [name for name in self.names if name not in self.missing and self._suits(workload, name)]
        first = turn % max(1, len(names))
        return names[first:] + names[:first]

    def total_s(self, rounds: int, traced: bool) -> float:
        """About how long it all takes."""
        again = self._tracing()
        each: list[float] = [runner(workload).cost_s(workload, self.plan) for workload, _ in self.pairs(0)]
        starts: list[float] = [runner(workload).START_COST_S for workload, _ in self.pairs(0)]
        traces: list[float] = [runner(workload).cost_s(workload, again) for workload, _ in self.pairs(0)]
        kept = (rounds - 1) * sum(starts) if self.keep else 0.0
        return rounds * sum(each) - kept + (sum(traces) if traced else 0.0)

    def measure(self, rounds: int, progress: Progress, after_each: Callable[[], None]) -> None:
        """`after_each` round, or with `keep` after all rounds of a workload."""
        if not self.keep:
            for turn in range(rounds):
                self.measure_round(turn, progress)
                after_each()
            return
        for workload in self.workloads:
            if workload.name not in self.left_out:
                self.measure_kept(workload, rounds, progress)
                after_each()

    def measure_round(self, turn: int, progress: Progress) -> None:
        for workload, name in self.pairs(turn):
            before = [s for s in self.samples if (s.workload, s.loop) == (workload.name, name)]
            cost = runner(workload).cost_s(workload, self.plan)
            if len(before) >= TRIES and all(s.failure for s in before):
                progress(f"{workload.name}: {name} is not tried again", cost)
                continue
            progress(f"{workload.name}: {name}", 0.0)
            try:
                with runner(workload).opened(workload, name, self.plan) as measure:
                    sample = measured(workload.name, name, turn, measure(nobody))
            except FAILURES as reason:
                sample = Sample(workload.name, name, turn, str(reason))
            self.samples.append(sample)
            progress(f"{workload.name}: {name}", cost)

    def measure_kept(self, workload: Workload, rounds: int, progress: Progress) -> None:
        """All rounds of a workload, one process under test for each loop. A loop that failed takes no more part."""
        kind = runner(workload)
        cost = kind.cost_s(workload, self.plan) - kind.START_COST_S
        alive: dict[str, Measure] = {}
        with contextlib.ExitStack() as stack:
            for turn in range(rounds):
                for name in self._order(workload, turn):
                    progress(f"{workload.name}: {name}", 0.0 if turn else kind.START_COST_S)
                    try:
                        if turn == 0:
                            alive[name] = stack.enter_context(kind.opened(workload, name, self.plan))
                        if name in alive:
                            self.samples.append(measured(workload.name, name, turn, alive[name](nobody)))
                    except FAILURES as reason:
                        alive.pop(name, None)
                        self.samples.append(Sample(workload.name, name, turn, str(reason)))
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
        with runner(workload).opened(workload, name, plan) as measure:
            answer = measure(watch)
    except FAILURES as reason:
        return Sample(workload.name, name, TRACED, str(reason))
    calls, words = syscalls.per_item(counts, max(1.0, answer["operations"]))
    return Sample(workload.name, name, TRACED, calls=calls, call_names=words)
