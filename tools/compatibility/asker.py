"""The parent's side: one child per loop, asked a probe at a time."""

from __future__ import annotations

import json
import subprocess
import sys
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
