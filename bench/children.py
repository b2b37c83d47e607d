"""Processes that a benchmark starts: pinned to a CPU, spoken to by lines, never left behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from bench import NotMeasured

ROOT = Path(__file__).resolve().parent.parent

SERVER_CPU = 0
CLIENT_CPU = 1
STOP_TIMEOUT_S = 5.0
STDERR_LINES = 6


class ChildFailed(NotMeasured):
    """A child ended, or was silent for too long. The text says which, with the end of its stderr."""


@contextlib.contextmanager
def on_cpu(index: int | None) -> Iterator[None]:
    """Processes started inside inherit one CPU: the index-th that this process may use. None is all of them.

    Pinning the parent for a moment needs no code in the child. And no preexec_fn, unsafe with threads.
    """
    before = os.sched_getaffinity(0)
    if index is not None and len(before) > 1:
        os.sched_setaffinity(0, {sorted(before)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def peak_kib(pid: int | str) -> int:
    """VmHWM of a process ("self" is this one): the most memory it has had in RAM so far, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise NotMeasured(f"/proc/{pid}/status has no VmHWM")


def cpu_us(pid: int) -> tuple[float, float]:
    """User and system time that a running process has used so far, in microseconds."""
    # The second field is a name that may hold anything, so count from its closing bracket.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick_us = 1e6 / os.sysconf("SC_CLK_TCK")
    return int(fields[11]) * tick_us, int(fields[12]) * tick_us


class Child:
    """One process with pipes on stdin and stdout. Leaving the `with` block kills it if it still runs."""

    def __init__(self, command: Sequence[str], cpu: int | None, quiet: bool = False, user: int | None = None) -> None:
        """`quiet` throws stdout away: a program that nobody reads would fill the pipe. `user` is a uid."""
        self._command = command
        self._pending = b""
        # A file and not a pipe: nobody reads stderr while the child runs, and a full pipe would block it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        with on_cpu(cpu):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
                stderr=self._stderr,
                cwd=ROOT,
                user=user,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def read_line(self, timeout_s: float) -> str:
        """The next line of the child's stdout, without its end."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                raise self.failure(f"said nothing for {timeout_s:.0f} s")
            data = os.read(stdout.fileno(), 65536)
            if not data:
                raise self.failure(f"ended with status {self._process.wait()}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def send_line(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(line.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self.failure(f"ended with status {self._process.wait()}") from None

    def check_runs(self) -> None:
        """Raise ChildFailed if it has ended."""
        if (status := self._process.poll()) is not None:
            raise self.failure(f"ended with status {status}")

    def stop(self) -> int:
        """Ask the child to end with SIGTERM, and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end in {timeout_s:.0f} s") from None

    def failure(self, what: str) -> ChildFailed:
        self._stderr.seek(0)
        tail = self._stderr.read().decode(errors="replace").strip().splitlines()[-STDERR_LINES:]
        name = " ".join(Path(word).name for word in self._command)
        return ChildFailed("\n  ".join([f"{name}: {what}", *tail]))
