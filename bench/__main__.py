"""Every workload on every loop: `python -m bench`.

    python -m bench                                     the default workloads, some hours
    python -m bench --quick                             a look at them in minutes; the numbers are rough
    python -m bench --workloads 'tcp/*/50x1KiB,udp/*' --loops aioqemu,uvloop --syscalls
    python -m bench --list

Every measurement is new processes: the one under test on one CPU, a load program in C (or wrk) on another. With --keep
those under test live through all rounds of a workload: where the machine's speed changes from second to second, many
short rounds tell more (--keep --rounds 25 --seconds 0.2 --warmup 0.05). The table shows medians; the ratios are
medians of those within each round. bench/loops.py says what the names of the loops mean, docs/performance.md what is
measured and how.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench import loops, machine, report, workloads
from bench.children import ROOT
from bench.judge import Judge
from bench.plan import LOAD_CPU, Plan
from bench.progress import shown
from bench.results import Results
from bench.services import Services

ROUNDS, SECONDS = 5, 2.0
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.4
WARMUP_S = 0.4


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default="", help="patterns of names, with commas between (see --list)")
    parser.add_argument("--full", action="store_true", help="also the sizes and numbers of connections between")
    parser.add_argument("--loops", default="", help=f"default: {','.join(loops.DEFAULT)}")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, help=f"of a measurement; default: {SECONDS}")
    parser.add_argument(
        "--warmup", type=float, default=WARMUP_S, help="seconds that do not count; default: %(default)s"
    )
    parser.add_argument("--keep", action="store_true", help="the processes under test live through a workload's rounds")
    parser.add_argument("--quick", action="store_true", help=f"one short round of {', '.join(loops.QUICK)}")
    parser.add_argument("--syscalls", action="store_true", help="also count system calls, with strace, in runs apart")
    parser.add_argument("--unpinned", action="store_true", help="let the kernel choose the CPUs")
    parser.add_argument("--output", type=Path, help="JSON file; the tables go beside it; default: in bench/results/")
    parser.add_argument("--list", action="store_true", help="print the names of the workloads and end")
    words = parser.parse_args()
    words.rounds = words.rounds or (QUICK_ROUNDS if words.quick else ROUNDS)
    words.seconds = words.seconds or (QUICK_SECONDS if words.quick else SECONDS)
    words.patterns = [pattern for pattern in words.workloads.split(",") if pattern]
    if not workloads.chosen(words.patterns, words.full):
        parser.error(f"no workload matches {words.workloads}; --list names them all")
    return words


def wanted_loops(words: argparse.Namespace) -> list[str]:
    if words.loops:
        return list(words.loops.split(","))
    return list(loops.QUICK if words.quick else loops.DEFAULT)


def main() -> int:
    words = options()
    chosen = workloads.chosen(words.patterns, words.full)
    if words.list:
        for workload in chosen if words.patterns else workloads.registry():
            print(workload.name + ("" if workload.default else "  (--full)"))
        return 0
    names = wanted_loops(words)
    result = Results(
        date=machine.now(),
        machine=machine.describe(),
        arguments={key: str(value) if isinstance(value, Path) else value for key, value in vars(words).items()},
        loops=names,
        workloads=[{"kind": type(workload).__name__, **asdict(workload)} for workload in chosen],
    )
    path = words.output or ROOT / "bench" / "results" / f"{result.date.replace(':', '')}.json"
    pinned = not words.unpinned
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Services(LOAD_CPU if pinned else None) as services,
    ):
        plan = Plan(words.seconds, words.warmup, pinned, Path(folder), services)
        judge = Judge(plan, chosen, names, bool(words.loops), words.keep)
        result.missing, result.left_out, result.samples = judge.missing, judge.left_out, judge.samples
        try:
            run(judge, words.rounds, words.syscalls, result, path)
        except KeyboardInterrupt:
            print("interrupted; what was measured so far:", file=sys.stderr)
    result.save(path)
    text = report.whole(result)
    path.with_suffix(".md").write_text(text + "\n")
    print(f"\n{text}\n\nsaved as {os.path.relpath(path)}; plots: python -m bench.plots {os.path.relpath(path)}")
    return 0 if any(sample.per_s for sample in result.samples) else 1  # failures are in the tables


def run(judge: Judge, rounds: int, syscalls: bool, result: Results, path: Path) -> None:
    judge.prepare()
    for what, reason in (*judge.missing.items(), *judge.left_out.items()):
        print(f"{what}: left out, {reason}", file=sys.stderr)
    with shown(judge.total_s(rounds, syscalls)) as progress:
        judge.measure(rounds, progress, lambda: result.save(path))
        if syscalls:
            judge.trace(progress)


if __name__ == "__main__":
    sys.exit(main())
