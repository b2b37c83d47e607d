"""Running the command line as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """command("doctor", ...) in an empty folder, with warnings as errors; gives back what subprocess.run() does."""

    def run(
        *args: str, options: tuple[str, ...] = ("-W", "error"), preexec_fn=None, stdin: str = "", **environment: str
    ):
        return subprocess.run(
            [sys.executable, *options, "-m", "aioqemu_loop", *args],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
            preexec_fn=preexec_fn,
        )

    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """script(text) -> the path of a script."""

    def write(text: str, name: str = "program.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write
