"""Every example runs to its end, says what it should, and leaves no warning."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# `make demo` runs demo.py; tests/iothread and tests/files have the others.
RUN_ELSEWHERE = {"demo.py", "iothread_pool.py", "write_ahead_log.py"}


def run(name: str, *args: str, prefix: tuple[str, ...] = (), **environment: str) -> str:
    result = subprocess.run(
        [*prefix, sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *args],
        capture_output=True,
        text=True,
        timeout=45,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "Traceback" not in result.stderr, result.stderr
    return result.stdout


def missing(what: str) -> None:
    # The toolkits are installed for the default Python only, as the applications are.
    default_python = Path(sys.prefix).name == ".venv"
    (pytest.fail if os.environ.get("CI") and default_python else pytest.skip)(f"{what} is not installed")


def test_a_main_loop_of_its_own() -> None:
    assert run("mainloop.py").startswith(
        "1000 lines there and back, driven by a main loop of its own; fd monitor: poll"
    )


def test_tk() -> None:
    if importlib.util.find_spec("_tkinter") is None:
        missing("Tk")
    if shutil.which("xvfb-run") is None:
        missing("xvfb")
    assert run("tk_app.py", "--once", prefix=("xvfb-run", "-a")) == "HELLO FROM TK\n"


def test_qt() -> None:
    if importlib.util.find_spec("PySide6") is None:
        missing("PySide6")
    assert run("qt_app.py", "--once", QT_QPA_PLATFORM="offscreen") == "10000 lines read while Qt ran\n"


def test_gtk() -> None:
    # Not installed for the tests: this one is for machines that have it.
    code = "import gi; gi.require_version('Gtk', '4.0')"
    if shutil.which("xvfb-run") is None or subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
        pytest.skip("GTK 4, PyGObject or xvfb is not installed")
    assert run("gtk_app.py", "--once", prefix=("xvfb-run", "-a")) == "done by a child\n"


def test_none_is_forgotten() -> None:
    here = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in RUN_ELSEWHERE or f'"{path.name}"' in here, path.name
