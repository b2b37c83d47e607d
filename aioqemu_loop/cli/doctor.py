"""`doctor`: which backends work here, why the others do not, and what to change."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from textwrap import TextWrapper

from aioqemu_loop.cli.advice import advice
from aioqemu_loop.cli.machine import PACKAGES, Machine, look

WIDTH = 100
RING = {
    "defer_taskrun": "completions are handled inside our own calls (DEFER_TASKRUN, Linux 6.1)",
    "provided_buffers": "receiving into shared buffers (provided buffers, 5.19)",
    "multishot_receive": "one receive for a connection's life (multishot receive, 6.0)",
    "cqe_skip": "sends that went well report nothing (CQE_SKIP, 5.17)",
    "no_iowait": "waiting is not counted as iowait (NO_IOWAIT, 6.15)",
}
SYSCTL = {0: "0: everybody may", 1: "1: only CAP_SYS_ADMIN and a group may", 2: "2: nobody may", None: "not there"}


def main(args: argparse.Namespace) -> int:
    """Prints; returns 0 if a loop with the default backend can be made, else 1."""
    machine = look()
    if args.json:
        print(json.dumps({**asdict(machine), "advice": advice(machine)}, indent=2))
    else:
        print("\n".join(report(machine)))
    return 0 if machine.default is not None and machine.poll_max_ns is not None else 1


def report(machine: Machine) -> Iterator[str]:
    """Lines."""
    versions = machine.versions
    yield (
        f"aioqemu_loop {versions['aioqemu_loop']}, {versions['python']}, {versions['kernel']} ({versions['machine']})"
    )
    yield from _section("Backends", _backends(machine))
    yield from _section("io_uring of this kernel", _ring(machine))
    yield from _section("Limits", _limits(machine))
    yield from _section("CPUs", _cpus(machine))
    yield from _section("Environment", machine.environment.items())
    yield from _section("Packages that some parts use", _packages(machine))
    yield ""
    yield "What to change"
    found = advice(machine)
    for number, text in enumerate(found, 1):
        yield from _wrap(text, f"  {number}. ", "     ")
    if not found:
        yield "  Nothing."


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    pairs = list(rows)
    if not pairs:
        return
    yield ""
    yield title
    width = max(len(name) for name, _ in pairs) + 2
    for name, text in pairs:
        yield from _wrap(text, f"  {name:{width}}", " " * (width + 2))


def _wrap(text: str, first: str, others: str) -> list[str]:
    wrapper = TextWrapper(WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
    return wrapper.wrap(text) or [first]


def _backends(machine: Machine) -> Iterator[tuple[str, str]]:
    for name, reason in machine.backends.items():
        if reason is not None:
            yield name, f"no: {reason}"
        else:
            yield name, "works; what a loop here uses by default" if name == machine.default else "works"


def _ring(machine: Machine) -> Iterator[tuple[str, str]]:
    ring = machine.ring
    if ring is None:
        return
    yield "entries", f"{ring['entries']} submissions"
    for name, text in RING.items():
        yield name, f"{'yes' if ring[name] else 'no'}: {text}"
    operations = ring["operations"]
    assert isinstance(operations, dict)
    missing = [name for name, known in operations.items() if not known]
    yield "operations", f"not here: {', '.join(missing)}" if missing else f"all {len(operations)} that are used"


def _limits(machine: Machine) -> Iterator[tuple[str, str]]:
    for name, (soft, hard) in machine.limits.items():
        unit = " bytes" if name == "RLIMIT_MEMLOCK" else ""
        texts = ["unlimited" if value < 0 else f"{value}{unit}" for value in (soft, hard)]
        yield name, texts[0] if soft == hard else f"{texts[0]}, may be raised to {texts[1]}"
    yield "seccomp", machine.seccomp or "unknown"
    disabled = machine.io_uring_disabled
    yield "kernel.io_uring_disabled", SYSCTL.get(disabled, str(disabled))
    if disabled == 1:
        yield "kernel.io_uring_group", str(machine.io_uring_group)


def _cpus(machine: Machine) -> Iterator[tuple[str, str]]:
    cpus = machine.cpus
    yield "usable", f"{cpus['usable']} (of {cpus['online']}; affinity allows {cpus['affinity']})"
    if machine.poll_max_ns is None:
        return
    source = "AIOQEMU_POLL_MAX_NS" if "AIOQEMU_POLL_MAX_NS" in machine.environment else "the default here"
    if machine.poll_max_ns:
        yield "poll mode", f"on, looks for up to {machine.poll_max_ns} ns before it sleeps ({source})"
    else:
        yield "poll mode", f"off ({source})"


def _packages(machine: Machine) -> Iterator[tuple[str, str]]:
    for name, purpose in PACKAGES.items():
        yield name, f"{machine.packages[name] or 'not installed'}, for {purpose}"
