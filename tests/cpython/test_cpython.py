"""CPython's own asyncio tests on our loop: what is good on the stdlib's loop is good on ours, on every backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioqemu_loop

from ..conftest import BACKENDS
from ..mainloops.guest import GUESTS
from .exclusions import LEFT_OUT, as_markdown, left_out
from .runs import WITHOUT_LOOP, Runs, modules, worse

DOCS = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
FILES = list(modules())
PAIRS = [(file, fdmon) for file in FILES for fdmon in (BACKENDS if file not in WITHOUT_LOOP else ["poll"])]

# Where an outside main loop drives ours: what says most about a loop. With the default Python only, as these take long.
OUTSIDE = [("events", guest) for guest in GUESTS]
OUTSIDE += [(file, "g_source-io_uring") for file in ("base_events", "sock_lowlevel", "streams")]
DEFAULT_PYTHON = Path(sys.prefix).name == ".venv"

# A test waits for its run and for those before it. One worker has them all: each would else start every run.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("cpython")]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """All the runs that were asked for, started now, so that two are always under way."""
    runs = Runs()
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if item.path == request.path and "file" in parameters:
            runs.start(parameters["file"], None)
            for name in ("fdmon", "guest"):
                if name in parameters:
                    runs.start(parameters["file"], parameters[name])
    yield runs
    runs.close()


@pytest.mark.skipif(bool(FILES), reason="the tests are installed")
def test_the_tests_of_cpython_are_installed() -> None:
    missing = pytest.fail if os.environ.get("CI") and DEFAULT_PYTHON else pytest.skip
    missing("NONE OF CPYTHON'S OWN TESTS WERE RUN: this Python has no package test (Debian: libpython3-testsuite)")


@pytest.mark.parametrize(("file", "fdmon"), PAIRS, indirect=["fdmon"])
def test_what_passes_on_the_stdlibs_loop_passes_on_ours(runs: Runs, file: str, fdmon: str) -> None:
    compare(runs, file, fdmon)


@pytest.mark.skipif(not FILES, reason="this Python has no package test")
@pytest.mark.parametrize(("file", "guest"), OUTSIDE if DEFAULT_PYTHON else [])
def test_what_passes_on_the_stdlibs_loop_passes_on_one_that_is_driven(runs: Runs, file: str, guest: str) -> None:
    if "io_uring" in guest and (reason := aioqemu_loop.fdmons()["io_uring"]) is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"io_uring is not usable here: {reason}")
    compare(runs, file, guest)


def compare(runs: Runs, file: str, fdmon: str) -> None:
    reference = runs.start(file, None).result()
    if reference.module_skipped:
        pytest.skip(f"the file says: {reference.module_skipped}")
    ours = runs.start(file, fdmon).result()
    failed = worse(reference, ours)
    texts = [f"=== {name}: {case.outcome}\n{case.detail}" for name, case in failed.items()]
    if texts:
        pytest.fail(f"{len(texts)} of {reference.passed} tests in {file} fail on {fdmon}\n" + "\n".join(texts), False)
    # Else our loop was never asked, and this says nothing.
    assert bool(ours.on_our_loop) == (file not in WITHOUT_LOOP)


@pytest.mark.parametrize("file", sorted({entry.file for entry in LEFT_OUT} & set(FILES)))
def test_every_exclusion_leaves_something_out(runs: Runs, file: str) -> None:
    cases = runs.start(file, None).result().cases.values()
    used = {case.detail for case in cases if case.outcome == "left out"}
    assert {entry.pattern for entry in left_out(file) if entry.expected} <= used


def test_the_docs_name_every_exclusion_and_its_reason() -> None:
    assert as_markdown() in DOCS.read_text()
