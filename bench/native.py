"""Compiles the C programs of the benchmarks, when they are older than their sources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra")


def build(name: str) -> str:
    """The path of the program made from bench/NAME.c."""
    program = HERE / name
    sources = (HERE / f"{name}.c", HERE / "net.h")
    newest = max(source.stat().st_mtime for source in sources)
    if not program.exists() or program.stat().st_mtime < newest:
        compiler = os.environ.get("CC", "gcc")
        subprocess.run([compiler, *FLAGS, "-o", str(program), str(sources[0])], check=True)
    return str(program)
