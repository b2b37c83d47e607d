"""The parent's side: children that are asked a probe at a time, as many as there are processors."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.compatibility.registry import Probe

ROOT = Path(__file__).resolve().parents[2]


class Unavailable(Exception):
    """The loop cannot be had here."""


class Asker:
    """with Asker("uvloop") as ask: cell, details = ask(probe)"""

    def __init__(self, loop_name: str) -> None:
        command = [sys.executable, "-m", "tools.compatibility.child", loop_name]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )

    def __enter__(self) -> Asker:
        cell, reason = self.receive()
        if cell != "ready":
            self.__exit__()
            raise Unavailable(reason)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def receive(self) -> tuple[str, str]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the child ended with {self.process.wait()}")
        cell, details = json.loads(line)
        return cell, details

    def __call__(self, probe: Probe) -> tuple[str, str]:
        """(cell, traceback of a "no")"""
        if not probe.exists:
            return "-", ""
        self.process.stdin.write(json.dumps(probe.key) + "\n")
        self.process.stdin.flush()
        return self.receive()


def ask_all(loop_name: str, probes: Sequence[Probe], workers: int | None = None) -> dict[str, tuple[str, str]]:
    """Key of each probe -> (cell, traceback of a "no"). Raises Unavailable."""
    workers = workers or min(os.cpu_count() or 1, 4)
    idle: queue.SimpleQueue[Asker] = queue.SimpleQueue()

    def ask(probe: Probe) -> tuple[str, str]:
        asker = idle.get()
        try:
            return asker(probe)
        finally:
            idle.put(asker)

    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for _ in range(workers):
            idle.put(stack.enter_context(Asker(loop_name)))
        return dict(zip([probe.key for probe in probes], pool.map(ask, probes), strict=True))
