"""CPython's own asyncio tests on our loop: what is good on the stdlib's loop is good on ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import aioqemu_loop

from ..conftest import BACKENDS
from ..mainloops.guest import GUESTS
from .exclusions import as_markdown, left_out
from .runs import WITHOUT_LOOP, compare, modules

DOCS = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
DEFAULT_PYTHON = Path(sys.prefix).name == ".venv"
# Where an outside main loop drives ours: what says most about a loop.
OUTSIDE = {"events": GUESTS} | dict.fromkeys(("base_events", "sock_lowlevel", "streams"), ("g_source-io_uring",))


def loops_for(file: str) -> tuple[str, ...]:
    """On which of our loops a file is run. What differs between Pythons is asyncio and its tests, not our backends: all
    of them with the default Python, and with the others the one that does most by itself."""
    if file in WITHOUT_LOOP:
        return ("poll",)
    return (*BACKENDS, *OUTSIDE.get(file, ())) if DEFAULT_PYTHON else ("io_uring",)


@pytest.mark.skipif(bool(modules()), reason="the tests are installed")
def test_the_tests_of_cpython_are_installed() -> None:
    missing = pytest.fail if os.environ.get("CI") and DEFAULT_PYTHON else pytest.skip
    missing("NONE OF CPYTHON'S OWN TESTS WERE RUN: this Python has no package test (Debian: libpython3-testsuite)")


@pytest.mark.timeout(900)  # as many runs as there are loops, and one
@pytest.mark.parametrize("file", modules())
def test_what_passes_on_the_stdlibs_loop_passes_on_ours(file: str) -> None:
    reasons = {name: reason for name, reason in aioqemu_loop.fdmons().items() if reason is not None}
    missing = [loop for loop in loops_for(file) if any(name in loop for name in reasons)]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not usable here: {reasons}")
    reference, complaints = compare(file, [loop for loop in loops_for(file) if loop not in missing])
    if reference.module_skipped:
        pytest.skip(f"the file says: {reference.module_skipped}")
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
    used = {case.detail for case in reference.cases.values() if case.outcome == "left out"}
    assert {entry.pattern for entry in left_out(file) if entry.expected} <= used, "an exclusion leaves nothing out"
    if missing:
        pytest.skip(f"not run on {missing}, which are not usable here: {reasons}")


def test_the_docs_name_every_exclusion_and_its_reason() -> None:
    assert as_markdown() in DOCS.read_text()
