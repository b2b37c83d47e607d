"""Counts the system calls of a running process, with strace.

A traced process is many times slower, so nothing else may be measured meanwhile. Slowness also changes the
counts a little: a slow server finds more sockets ready at each wake-up.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator

from bench import NotMeasured

PR_SET_PTRACER = 0x59616D61  # linux/prctl.h
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


class StraceUnavailable(NotMeasured):
    """strace is missing, or may not attach. The text says which."""


def why_not() -> str | None:
    return None if shutil.which("strace") else "strace not installed"


def allow_tracing() -> None:
    """Called by the process to be traced. Yama's ptrace_scope 1 forbids a sibling to attach otherwise."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)


@contextlib.contextmanager
def counted(pid: int) -> Iterator[Counter[str]]:
    """The Counter is filled when the block ends: name of the call -> how many were made meanwhile."""
    if reason := why_not():
        raise StraceUnavailable(reason)
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r") as table:
        command = ["strace", "-f", "-c", "-o", table.name, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            first = strace.stderr.readline()
            if "attached" not in first:
                strace.kill()
                raise StraceUnavailable(first.strip() or "strace did not attach")
            try:
                yield counts
            finally:
                strace.send_signal(signal.SIGINT)  # strace detaches, then writes its table
                strace.stderr.read()
        counts.update(parse(table.read()))


def parse(table: str) -> dict[str, int]:
    """Read what `strace -c` prints: % time, seconds, usecs/call, calls, errors (may be empty), name."""
    counts = {}
    for line in table.splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit() and fields[-1] != "total":
            counts[fields[-1]] = int(fields[3])
    return counts


def per_item(counts: Counter[str], items: float, names: int = 4) -> tuple[float, str]:
    """Calls per item, and the most frequent ones in words: (2.5, "epoll_wait 1.25, read 1.0")."""
    top = [f"{name} {calls / items:.2f}" for name, calls in counts.most_common(names) if calls * 100 >= items]
    return sum(counts.values()) / items, ", ".join(top)
