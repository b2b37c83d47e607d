"""Small operations on different loops, side by side.

    python -m bench.micro --rounds 5 --seconds 0.3

Every measurement is a process of its own on one CPU, so that no case suffers from what another left behind.
The loops take turns within a round, and the order changes from round to round. The table shows medians.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import asdict, dataclass

from bench import loops, report
from bench.children import SERVER_CPU, Child, ChildFailed
from bench.micro_cases import CASES

END_TIMEOUT_S = 20.0  # beyond the seconds that were asked for
WARMUP_PART = 0.2  # of the measured seconds; these do not count


@dataclass(frozen=True)
class Sample:
    """One measurement. Without a rate there is a failure in words."""

    loop: str
    case: str
    per_s: float | None
    failure: str | None = None


def measure(loop: str, case: str, seconds: float) -> Sample:
    command = [sys.executable, "-m", "bench.micro", "--inside", "--loops", loop]
    command += ["--cases", case, "--seconds", str(seconds)]
    try:
        with Child(command, SERVER_CPU) as child:
            return Sample(loop, case, float(child.read_line(seconds + END_TIMEOUT_S)))
    except ChildFailed as failed:
        return Sample(loop, case, None, str(failed))


def inside(loop: str, case: str, seconds: float) -> None:
    """What the measuring process does."""

    async def main() -> float:
        await CASES[case](seconds * WARMUP_PART)
        # The collector stays on, because handles and tasks cost it time. But its full passes should not walk
        # the modules that the benchmark happened to import.
        gc.collect()
        gc.freeze()
        return await CASES[case](seconds)

    print(loops.run(loop, main()), flush=True)


def table(names: list[str], cases: list[str], samples: list[Sample]) -> str:
    def rounds(loop: str, case: str) -> list[float | None]:
        return [sample.per_s for sample in samples if (sample.loop, sample.case) == (loop, case)]

    def cell(loop: str, case: str) -> str:
        ratio = report.ratio(rounds(loop, case), rounds(report.BASELINE, case))
        return f"{report.number(report.middle(rounds(loop, case)))} ({ratio})"

    return report.table(["operations/s", *names], [[case, *(cell(n, case) for n in names)] for case in cases])


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--loops", default=",".join(loops.DEFAULT))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if unknown := set(words.cases.split(",")) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))} is not one of {', '.join(CASES)}")
    return words


def main() -> int:
    words = options()
    if words.inside:
        inside(words.loops, words.cases, words.seconds)
        return 0
    names = loops.usable(words.loops.split(","))
    cases = words.cases.split(",")
    samples: list[Sample] = []
    for turn in range(words.rounds):
        for case in cases:
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                samples.append(measure(name, case, words.seconds))
                if samples[-1].failure:
                    print(samples[-1].failure)
        print(f"round {turn + 1} of {words.rounds} is done", flush=True)
    print(f"\n{table(names, cases, samples)}\n")
    print(f"In brackets: times {report.BASELINE}, the median of the ratios within each round.")
    path = report.save("micro", vars(words), [*map(asdict, samples)])
    print(f"saved as {os.path.relpath(path)}")
    return 1 if any(sample.failure for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
