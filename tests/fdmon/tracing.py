"""Which system calls a piece of Python makes, by strace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import aioqemu_loop

# Every call that sleeps until an fd is ready. futex is the GIL's and the threads'.
WAITS = {
    "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2", "io_uring_enter",
}  # fmt: skip
PACKAGE_PARENT = str(Path(aioqemu_loop.__file__).parent.parent)


def strace(script: str, *args: str, env: dict[str, str] | None = None) -> list[str]:
    """The calls between the script's write of "BEGIN" and of "END" to fd 2, all threads', one per line."""
    return [call for _, call in strace_threads(script, *args, env=env)]


def strace_threads(script: str, *args: str, env: dict[str, str] | None = None) -> list[tuple[int, str]]:
    """The same as (thread id, call).

    Skips the test where there is no strace, or it may not trace; fails it in CI."""
    missing = pytest.fail if os.environ.get("CI") else pytest.skip
    if shutil.which("strace") is None:
        missing("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode:
        missing("strace may not trace here (ptrace)")
    python = [sys.executable, "-c", textwrap.dedent(script), *args]
    result = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/fd/1", "--", *python],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": PACKAGE_PARENT, **(env or {})},
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if " " in line]
    begin = next(i for i, line in enumerate(lines) if line[1].startswith('write(2, "BEGIN'))
    end = next(i for i, line in enumerate(lines) if line[1].startswith('write(2, "END'))
    return [(int(thread), call) for thread, call in lines[begin + 1 : end]]


def names(lines: list[str]) -> list[str]:
    """The names of the calls, in order; the second halves of interrupted lines do not count."""
    return [match[1] for line in lines if (match := re.match(r"(\w+)\(", line))]
