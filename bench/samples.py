"""One measurement of one workload on one loop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """Times are microseconds; CPU time and calls are per operation. With a failure, in words, there are no numbers.

    `load_busy` is the part of the measured time that the load program used a CPU: near 1 it is what holds things up.

    A sample with `calls` is a run of its own under strace, whose speed says nothing.
    """

    workload: str
    loop: str
    round: int
    failure: str | None = None
    per_s: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    user_us: float | None = None
    sys_us: float | None = None
    load_busy: float | None = None
    peak_kib: float | None = None
    connection_bytes: float | None = None
    calls: float | None = None
    call_names: str = ""


def measured(workload: str, loop: str, turn: int, answer: dict[str, float]) -> Sample:
    """Of what a runner returned."""
    operations = answer["operations"]
    if not operations:
        return Sample(workload, loop, turn, "nothing was done in the measured time")
    return Sample(
        workload,
        loop,
        turn,
        per_s=operations / answer["seconds"],
        p50_us=answer.get("p50_us"),
        p99_us=answer.get("p99_us"),
        user_us=answer["user_us"] / operations,
        sys_us=answer["sys_us"] / operations,
        load_busy=answer.get("load_busy"),
        peak_kib=answer.get("peak_kib"),
        connection_bytes=answer.get("connection_bytes"),
    )
