"""The library that makes system calls fail, compiled once, and children that it is preloaded into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import preloaded

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def faults_library():
    """Path of the library to preload; any user may read it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no C compiler for the faults")
    source = Path(__file__).with_name("faults.c")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        library = Path(folder) / "faults.so"
        subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"],
            check=True,
        )
        yield library


@pytest.fixture
def run_child(faults_library) -> Callable[..., str]:
    """run_child(*arguments): `python *arguments` with the library preloaded; its output. Fails where it does."""

    def run(*arguments: object, seconds: float = 50) -> str:
        child = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": preloaded(faults_library)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert child.returncode == 0, child.stdout[-8000:]
        return child.stdout

    return run
