"""No object of ours takes the process down, also where it was made by `cls.__new__(cls)` and __init__ never ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aioqemu_loop
from tests.project import half_made

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("packages", [half_made.PACKAGES[:4], half_made.PACKAGES[4:]])
def test_no_call_of_a_half_made_object_crashes(packages: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tests.project.half_made", *packages]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_packages_are_tried() -> None:
    folders = {path.parent.name for path in (ROOT / "aioqemu_loop").rglob("*.pyx")}
    assert set(half_made.PACKAGES) == folders


def test_a_method_knows_a_stranger() -> None:
    """Cython's own methods do not look, and took any object for one of their class: SIGSEGV."""
    with pytest.raises(TypeError, match="'time'"):
        aioqemu_loop.Loop.time(object())  # type: ignore[arg-type]


def test_a_crash_is_told() -> None:
    def crash() -> None:
        half_made.attempt("os.abort", os.abort)

    assert half_made.in_fork(crash) == "SIGABRT at os.abort()"


def test_an_fd_closed_by_the_object_is_told() -> None:
    class Closer:
        def close(self) -> None:
            os.close(0)

    assert half_made.in_fork(half_made.try_subject, Closer, Closer) == "SIGABRT at closing of an fd by Closer.close()"


@pytest.mark.parametrize(
    "name", ["base.BaseTransport", "base.FlowControlledTransport", "writing.WritingTransport", "tls_writing.TLSWriting"]
)
def test_what_only_the_loop_makes_is_refused(name: str) -> None:
    module, _, cls = name.partition(".")
    kind = getattr(__import__(f"aioqemu_loop.transports.{module}", fromlist=[cls]), cls)
    for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind), type("Derived", (kind,), {})):
        with pytest.raises(TypeError):
            make()
