"""What a result must say about the machine, or it cannot be compared with another."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import ssl
import subprocess
import sys
from pathlib import Path

from bench.children import ROOT

PACKAGES = (
    "aioqemu-loop",
    "uvloop",
    "rloop",
    "rsloop",
    "zuvloop",
    "aiohttp",
    "uvicorn",
    "httptools",
    "redis",
    "asyncpg",
    "aiofiles",
    "anyio",
    "Cython",
)
PROGRAMS = {  # name -> how to ask it, the first line is its answer
    "cc": ("cc", "--version"),
    "wrk": ("wrk", "--version"),
    "redis-server": ("redis-server", "--version"),
    "fio": ("fio", "--version"),
}


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def describe() -> dict[str, object]:
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "openssl": ssl.OPENSSL_VERSION,
        "commit": _commit(),
        "packages": _packages(),
        "programs": {name: answer for name, command in PROGRAMS.items() if (answer := _first_line(command))},
        # These change what the loop does.
        "environment": {key: value for key, value in os.environ.items() if key.startswith("AIOQEMU_")},
    }


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str:
    """Of this checkout, with "-dirty" where files have changed since; empty outside of git."""
    return _first_line(("git", "describe", "--always", "--dirty"))


def _first_line(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.partition("\n")[0].strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
