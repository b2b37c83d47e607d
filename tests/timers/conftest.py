"""The library that simulates the clock, compiled once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def simulated_time(tmp_path_factory):
    """Path of the library to preload."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no C compiler for the simulated clock")
    library = tmp_path_factory.mktemp("simulated") / "simulated_time.so"
    source = Path(__file__).with_name("simulated_time.c")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True
    )
    return library
