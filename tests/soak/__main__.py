"""Everything at once for a long time, with every byte accounted for, and memory, file descriptors and delays watched.

    python -m tests.soak [--fdmon io_uring] [--minutes 30] [--connections 10000] [--json soak.json] [--svg soak.svg]

A server and a client (server.py, client.py), each a process with one loop. Prints what was done and what was wrong, and
exits with 1 if anything was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.certificates import localhost_tls

from .verdict import Limits, judge

ROOT = Path(__file__).resolve().parents[2]
STARTING = ENDING = 120.0  # seconds that a process may take for it
LIMITS = Limits()
TICKS = os.sysconf("SC_CLK_TCK")


class Part:
    """One of the two processes, and what it has said."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.name = name
        command = [sys.executable, "-m", f"tests.soak.{name}", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: list[dict[str, Any]] = []
        self.something = threading.Event()
        self.listening = threading.Thread(target=self.listen, daemon=True)
        self.listening.start()

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(json.loads(line))
            self.something.set()

    def take(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said

    def look(self) -> dict[str, float]:
        """What the kernel says about it."""
        folder = Path(f"/proc/{self.process.pid}")
        try:
            status = (folder / "status").read_text()
            times = (folder / "stat").read_text().rpartition(") ")[2].split()
            return {
                "rss_mb": int(status.partition("VmRSS:")[2].split()[0]) / 1024,
                "fds": len(os.listdir(folder / "fd")),
                "cpu_s": (int(times[11]) + int(times[12])) / TICKS,
            }
        except (OSError, IndexError):  # it has ended
            return {}

    def end(self) -> list[str]:
        """Tells it to end. What is wrong with how it did."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            code = self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.listening.join()
        assert self.process.stdout
        self.process.stdout.close()
        if code:
            return [f"{self.name}: it ended with {code}"]
        return [] if self.said and self.said[-1].get("end") else [f"{self.name}: it has not said its last word"]


@dataclass
class Course:
    """What a soak has been like."""

    samples: list[dict[str, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, part: Part, said: list[dict[str, Any]]) -> dict[str, float]:
        """Adds what a part has said since; the numbers in it for a sample."""
        numbers: dict[str, float] = {}
        for line in said:
            self.wrong += [f"{part.name}: {text}" for text in line["problems"]]
            if part.name == "client":
                self.done.update(line["done"])
                numbers["mb"] = numbers.get("mb", 0.0) + line["done"].get("bytes", 0) / 1e6
                numbers["operations"] = numbers.get("operations", 0.0) + sum(
                    count for name, count in line["done"].items() if name not in ("bytes", "datagrams lost")
                )
            for name, (_, p99) in line["p50_p99_ms"].items():
                numbers[f"{part.name} {name} p99_ms"] = max(p99, numbers.get(f"{part.name} {name} p99_ms", 0.0))
            for name in ("connections", "tasks"):
                if name in line:
                    numbers[f"{part.name} {name}"] = line[name]
        return numbers

    def sample(self, parts: list[Part], seconds: float) -> None:
        """One more, this long after the start."""
        numbers: dict[str, float] = {"s": seconds}
        for part in parts:
            numbers |= self.add(part, part.take())
            numbers |= {f"{part.name} {name}": value for name, value in part.look().items()}
        self.samples.append(numbers)


def soak(
    fdmon: str,
    seconds: float,
    connections: int = 10_000,
    interval: float = 1.0,
    patience: float = 60.0,
    seed: int = 0,
    limits: Limits = LIMITS,
    sabotages: tuple[str, ...] = (),
) -> Course:
    """Runs one. It samples every `interval` s; a round of a load may take `patience` s. `sabotages` is what the server
    should do wrong: it must be found."""
    course = Course()
    with tempfile.TemporaryDirectory() as name:
        localhost_tls(Path(name))
        server = Part("server", fdmon, name, interval, patience, *sabotages)
        parts = [server]
        try:
            if not server.something.wait(STARTING):
                raise RuntimeError("the server has not begun")
            addresses = json.dumps(server.said[0]["addresses"])
            client = Part("client", fdmon, name, interval, patience, connections, seed, addresses)
            parts.insert(0, client)
            if not client.something.wait(STARTING):
                raise RuntimeError("the client has not begun")
            started = time.monotonic()
            while (now := time.monotonic() - started) < seconds and all(part.process.poll() is None for part in parts):
                time.sleep(min(interval, seconds - now))
                course.sample(parts, time.monotonic() - started)
        finally:
            for part in parts:  # the client first
                course.wrong += part.end()
                course.add(part, part.take())
    course.wrong += judge(course.samples[:-1], limits, connections)  # the last one may be short
    return course


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--fdmon", default="io_uring")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--connections", type=int, default=10_000, help="held open all the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--p99-ms", type=float, default=LIMITS.p99_ms, help="what the probes may measure")
    parser.add_argument("--json", help="where the samples go: one a second")
    parser.add_argument("--svg", help="where a picture of the curves goes (needs matplotlib)")
    arguments = parser.parse_args()
    needed = arguments.connections + 1000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
        parser.error(f"ulimit -n must be {needed} at least, or --connections less")
    limits = replace(LIMITS, p99_ms=arguments.p99_ms)
    course = soak(arguments.fdmon, 60 * arguments.minutes, arguments.connections, seed=arguments.seed, limits=limits)
    result = {
        "fdmon": arguments.fdmon,
        "connections": arguments.connections,
        "done": dict(course.done),
        "wrong": course.wrong,
        "samples": course.samples,
    }
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result))
    if arguments.svg:
        from .picture import draw

        draw(result, arguments.svg)
    for name, count in sorted(course.done.items()):
        print(f"{name:18} {count:16,}")
    print("\n".join(course.wrong) or "nothing wrong")
    return 1 if course.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
