"""Files by this package, on io_uring and on epoll, beside aiofiles, anyio, threads, blocking calls and fio.

    python -m bench.files [--quick] [--workloads 'random/*,small/*'] [--ways files:io_uring,aiofiles] [--folder DIR]

Every measurement is a new process, the ways take turns on each workload, and their order rotates from round to round.
The tables show medians of the rounds; a ratio is the median of those within each round. Files are made in a folder
of their own in --folder, which should be on the disk that is meant, and are removed in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from bench import NotMeasured, machine
from bench.children import ROOT, Child
from bench.files import fio, report
from bench.files.ways import BASELINE, FIO, WAYS, why_not
from bench.files.workloads import DEPTHS, WORKLOADS, Workload
from bench.judge import TRIES
from bench.progress import shown
from bench.results import Results
from bench.samples import Sample, measured

ROUNDS, SECONDS, SIZE_MIB, COUNT = 5, 1.0, 1024, 1000
QUICK = {"rounds": 1, "seconds": 0.2, "size": 128, "count": 200}
START_COST_S = 0.5
TIMEOUT_S = 60.0  # beyond the seconds that were asked for: the disk may be slow


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.files", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default="*", help=f"patterns, with commas between, of {', '.join(WORKLOADS)}")
    parser.add_argument("--ways", default=",".join((*WAYS, FIO)), help="default: %(default)s")
    parser.add_argument("--depths", default=",".join(map(str, DEPTHS)), help="tasks at once; default: %(default)s")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument("--seconds", type=float, help=f"of a measurement at most; default: {SECONDS}")
    parser.add_argument("--size", type=int, help=f"MiB of the large file; default: {SIZE_MIB}")
    parser.add_argument("--count", type=int, help=f"small files; default: {COUNT}")
    parser.add_argument("--quick", action="store_true", help="one short round with less data; the numbers are rough")
    parser.add_argument("--folder", type=Path, default=Path(), help="where files are made; default: here")
    parser.add_argument("--json", type=Path, help="also write every sample to this file")
    words = parser.parse_args()
    for name, default in {"rounds": ROUNDS, "seconds": SECONDS, "size": SIZE_MIB, "count": COUNT}.items():
        if getattr(words, name) is None:
            setattr(words, name, QUICK[name] if words.quick else default)
    words.chosen = [w for w in WORKLOADS.values() if any(fnmatchcase(w.name, p) for p in words.workloads.split(","))]
    words.names = words.ways.split(",")
    words.numbers = [int(depth) for depth in words.depths.split(",")]
    if not words.chosen:
        parser.error(f"no workload matches {words.workloads}")
    if unknown := set(words.names) - {*WAYS, FIO}:
        parser.error(f"there is no way {', '.join(sorted(unknown))}")
    return words


def pairs(words: argparse.Namespace, missing: dict[str, str], turn: int) -> Iterator[tuple[Workload, int, str]]:
    """What one round measures, in its order."""
    for workload in words.chosen:
        for depth in words.numbers:
            names = [name for name in words.names if name not in missing and suits(workload, depth, name)]
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                yield workload, depth, name


def suits(workload: Workload, depth: int, name: str) -> bool:
    if name == FIO:
        return bool(workload.fio)
    return depth in (WAYS[name].depths or (depth,))


def measure(workload: Workload, depth: int, name: str, words: argparse.Namespace, data: Path) -> dict[str, float]:
    if name == FIO:
        return fio.measure(workload.fio, depth, words.seconds, str(data))
    command = [sys.executable, "-m", "bench.files.inside", name, workload.name, str(depth), str(words.seconds)]
    command += [str(data.parent), str(data), str(words.count)]
    with Child(command, None) as child:
        answer: dict[str, float] = json.loads(child.read_line(words.seconds + TIMEOUT_S))
        child.wait(TIMEOUT_S)  # it removes its files
    return answer


def run(words: argparse.Namespace, result: Results, folder: Path) -> None:
    data = folder / "data"
    with open(data, "wb") as file:
        for _ in range(words.size):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    cost_s = START_COST_S + words.seconds
    with shown(cost_s * words.rounds * len(list(pairs(words, result.missing, 0)))) as progress:
        for turn in range(words.rounds):
            for workload, depth, name in pairs(words, result.missing, turn):
                row = report.row_name(workload.name, depth)
                before = result.of(row, name)
                if len(before) < TRIES or any(sample.failure is None for sample in before):
                    try:
                        sample = measured(row, name, turn, measure(workload, depth, name, words, data))
                    except (NotMeasured, ValueError, OSError) as reason:  # ValueError: not the JSON that was promised
                        sample = Sample(row, name, turn, str(reason))
                    result.samples.append(sample)
                progress(f"{row}: {name}", cost_s)
            if words.json:
                result.save(words.json)


def main() -> int:
    words = options()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # files are removed then, too
    result = Results(
        date=machine.now(),
        machine=machine.describe(),
        arguments={name: getattr(words, name) for name in ("rounds", "seconds", "size", "count")},
        loops=words.names,
        workloads=[
            {"name": report.row_name(w.name, depth), "workload": w.name, "depth": depth, "operation": w.operation}
            for w in words.chosen
            for depth in words.numbers
        ],
    )
    result.missing = {name: reason for name in words.names if (reason := why_not(name))}
    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=words.folder) as folder:
        try:
            run(words, result, Path(folder).absolute())
        except KeyboardInterrupt:
            print("interrupted; what was measured so far:", file=sys.stderr)
    if words.json:
        result.save(words.json)
        print(f"saved as {os.path.relpath(words.json, ROOT)}", file=sys.stderr)
    print(report.whole(result, BASELINE))
    return 0 if any(sample.per_s for sample in result.samples) else 1  # failures are in the tables


if __name__ == "__main__":
    sys.exit(main())
