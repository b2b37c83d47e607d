"""Echo servers on different loops, side by side.

    python -m bench.echo --mode protocol --connections 1,50 --size 1024 --rounds 5 --seconds 2

Every measurement is a new server process on one CPU and a native client on another. The loops take turns
within a round, and the order changes from round to round, so that a noisy minute hits all of them. The table
shows medians, and the ratio to uvloop is the median of the ratios within each round. The loop named "c" is
a C server: the floor for a loop that waits for readiness.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from bench import loops, native, report, servers, syscalls
from bench.children import CLIENT_CPU, SERVER_CPU, Child, ChildFailed

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 20.0  # beyond the seconds that were asked for
FLOOR = "c"
TRACE_SECONDS = 0.5


@dataclass(frozen=True)
class Workload:
    mode: str
    transport: str
    connections: int
    size: int

    def __str__(self) -> str:
        return f"{self.transport} {self.mode}, {self.connections} connections, {self.size} bytes"


@dataclass(frozen=True)
class Sample:
    """One measurement. Without messages there is a failure in words."""

    loop: str
    workload: Workload
    failure: str | None = None
    msgs_per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    user_us: float | None = None
    sys_us: float | None = None


@dataclass(frozen=True)
class Trace:
    """System calls per message, seen by strace in a run of their own."""

    loop: str
    workload: Workload
    calls: float | None
    words: str


@contextlib.contextmanager
def server(loop: str, workload: Workload) -> Iterator[tuple[Child, str]]:
    """A running server, and its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket" if workload.transport == "unix" else "127.0.0.1:0"
        command = [sys.executable, "-m", "bench.servers", loop, workload.mode, address]
        if loop == FLOOR:
            command = [native.build("cserver"), address]
        with Child(command, SERVER_CPU) as child:
            yield child, child.read_line(START_TIMEOUT_S).removeprefix("ready ")


def load(address: str, workload: Workload, seconds: float, warmup: float, pid: int) -> dict[str, float]:
    words = (address, workload.connections, workload.size, seconds, warmup, pid)
    with Child([native.build("loadgen"), *map(str, words)], CLIENT_CPU) as child:
        answer: dict[str, float] = json.loads(child.read_line(seconds + warmup + END_TIMEOUT_S))
    return answer


def measure(loop: str, workload: Workload, seconds: float, warmup: float) -> Sample:
    try:
        with server(loop, workload) as (child, address):
            result = load(address, workload, seconds, warmup, child.pid)
    except ChildFailed as failed:
        return Sample(loop, workload, failure=str(failed))
    messages = result["messages"]
    if not messages:
        return Sample(loop, workload, failure="no message came back")
    return Sample(
        loop,
        workload,
        msgs_per_s=result["msgs_per_s"],
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        user_us=result["server_user_us"] / messages,
        sys_us=result["server_sys_us"] / messages,
    )


def trace(loop: str, workload: Workload) -> Trace:
    try:
        with server(loop, workload) as (child, address), syscalls.counted(child.pid) as counts:
            result = load(address, workload, TRACE_SECONDS, 0.0, child.pid)
    except (ChildFailed, syscalls.StraceUnavailable) as failed:
        return Trace(loop, workload, None, str(failed).splitlines()[0])
    calls, words = syscalls.per_item(counts, max(1, int(result["messages"])))
    return Trace(loop, workload, calls, words)


def tables(workloads: Sequence[Workload], names: Sequence[str], samples: list[Sample], traces: list[Trace]) -> str:
    return "\n\n".join(f"### {workload}\n\n{one_table(workload, names, samples, traces)}" for workload in workloads)


def one_table(workload: Workload, names: Sequence[str], samples: list[Sample], traces: list[Trace]) -> str:
    def rounds(loop: str, field: str) -> list[float | None]:
        mine = (sample for sample in samples if sample.loop == loop and sample.workload == workload)
        return [getattr(sample, field) for sample in mine]

    def middle(loop: str, field: str, digits: int = 1) -> str:
        return report.number(report.middle(rounds(loop, field)), digits)

    def row(loop: str) -> list[str]:
        traced = [t for t in traces if t.loop == loop and t.workload == workload]
        cells = [
            loop,
            middle(loop, "msgs_per_s", 0),
            report.ratio(rounds(loop, "msgs_per_s"), base),
            middle(loop, "p50_us"),
            middle(loop, "p99_us"),
            middle(loop, "user_us"),
            middle(loop, "sys_us"),
        ]
        return cells + [cell for t in traced for cell in (report.number(t.calls, 2), t.words)]

    head = ["loop", "messages/s", f"to {report.BASELINE}", "p50 us", "p99 us", "user us/msg", "sys us/msg"]
    if traces:
        head += ["calls/msg", "calls"]
    base = rounds(report.BASELINE, "msgs_per_s")
    return report.table(head, [row(loop) for loop in names])


def options() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    def among(known: Sequence[str]) -> Callable[[str], list[str]]:
        def words(text: str) -> list[str]:
            if unknown := set(text.split(",")) - set(known):
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is not one of {', '.join(known)}")
            return text.split(",")

        return words

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", type=among([*servers.MODES]), default=["protocol"], help=", ".join(servers.MODES))
    parser.add_argument("--transport", type=among(["tcp", "unix"]), default=["tcp"], help="tcp, unix")
    parser.add_argument("--connections", type=numbers, default=[1, 50])
    parser.add_argument("--size", type=numbers, default=[1024], help="bytes per message")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds that do not count")
    parser.add_argument("--loops", default=",".join((FLOOR, *loops.DEFAULT)))
    parser.add_argument("--syscalls", action="store_true", help="also count system calls, with strace")
    return parser.parse_args()


def main() -> int:
    words = options()
    wanted = words.loops.split(",")
    here = loops.usable(name for name in wanted if name != FLOOR)
    names = [name for name in wanted if name == FLOOR or name in here]
    product = itertools.product(words.transport, words.mode, words.size, words.connections)
    workloads = [Workload(mode, transport, count, size) for transport, mode, size, count in product]

    samples: list[Sample] = []
    for turn in range(words.rounds):
        for workload in workloads:
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                sample = measure(name, workload, words.seconds, words.warmup)
                samples.append(sample)
                answer = f"{report.number(sample.msgs_per_s)} messages/s"
                print(f"round {turn + 1}: {workload}: {name}: {sample.failure or answer}", flush=True)
    traces = [trace(name, workload) for workload in workloads for name in names] if words.syscalls else []

    print(f"\n{tables(workloads, names, samples, traces)}\n")
    path = report.save("echo", vars(words), [*map(asdict, samples), *map(asdict, traces)])
    print(f"saved as {os.path.relpath(path)}")
    return 1 if any(sample.failure for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
