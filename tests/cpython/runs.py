"""Runs the standard library's test modules in child processes, and compares what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aioqemu_loop

from .exclusions import WHOLE_FILES, left_out

CHILD = Path(__file__).with_name("child.py")
SECONDS_PER_TEST = 60
SECONDS_PER_MODULE = 400
RESTARTS = 5  # after crashes and hangs
# Besides all of test.test_asyncio: who else makes loops by asyncio's doors.
OTHER_MODULES = (
    "test.test_asyncgen",
    "test.test_contextlib_async",
    "test.test_coroutines",
    "test.test_unittest.test_async_case",
    "unittest.test.test_async_case",  # up to 3.11
)
# Files that were seen to make no loop; one backend is enough for them.
WITHOUT_LOOP = {"protocols", "tools", "transports"}
if sys.version_info >= (3, 14):
    WITHOUT_LOOP.add("contextlib_async")  # drives its coroutines by hand


@dataclasses.dataclass
class Case:
    """What became of one test."""

    outcome: str  # passed, failed, skipped, expected failure, left out
    detail: str = ""
    made: int = 0  # loops of ours that it made

    @property
    def good(self) -> bool:
        return self.outcome in ("passed", "expected failure")


@dataclasses.dataclass
class Run:
    """What became of a module's tests on one kind of loop."""

    cases: dict[str, Case] = dataclasses.field(default_factory=dict)
    module_skipped: str = ""

    @property
    def passed(self) -> int:
        return sum(case.good for case in self.cases.values())

    @property
    def on_our_loop(self) -> int:
        """How many tests made a loop of ours, or more than one."""
        return sum(case.made > 0 for case in self.cases.values())

    def count(self, outcome: str) -> int:
        return sum(case.outcome == outcome for case in self.cases.values())


def _read(lines: list[str], run: Run) -> str | None:
    """Add what a child told; the test that it did not come back from, if there is one."""
    running = None
    for line in lines:
        told = json.loads(line)
        name, outcome = told.pop("test"), told["outcome"]
        if outcome == "module skipped":
            run.module_skipped = told["detail"]
        elif outcome == "started":
            running = name
        else:
            running = None
            run.cases[name] = Case(**told)
    return running


def _start(job: dict[str, object], folder: Path) -> tuple[int, str]:
    """Run one child to its end; its exit status, and the end of what it printed."""
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "cwd").mkdir(exist_ok=True)
    root = str(Path(aioqemu_loop.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(":")}
    with (folder / "printed").open("w+") as printed:
        child = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(CHILD), str(folder / "job.json")],
            cwd=folder / "cwd",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(SECONDS_PER_MODULE)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        finally:
            _kill_session(child)
        printed.seek(0)
        return status, printed.read()[-8000:]


def _kill_session(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run_module(
    module: str,
    fdmon: str | None,
    left_out: tuple[str, ...] = (),
    seconds: float = SECONDS_PER_TEST,
) -> Run:
    """Run a test module on our loop with that backend, or on the stdlib's own loop (None)."""
    run = Run()
    job = {"module": module, "fdmon": fdmon, "left_out": left_out, "seconds": seconds}
    for _ in range(RESTARTS):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(name)
            out = folder / "out.jsonl"
            out.touch()
            status, printed = _start(job | {"done": list(run.cases), "out": str(out)}, folder)
            running = _read(out.read_text().splitlines(), run)
        if status == 0:
            return run
        how = f"the process ended with status {status}:\n{printed}"
        if running is None:
            run.cases["(the module)"] = Case("failed", how)
            return run
        run.cases[running] = Case("failed", how)
    run.cases["(the module)"] = Case("failed", f"gave up after {RESTARTS} crashes or hangs")
    return run


def worse(reference: Run, ours: Run) -> dict[str, Case]:
    """The tests that are good on the stdlib's loop and not on ours."""
    missing = Case("failed", "did not run")
    found = {
        name: ours.cases.get(name, missing)
        for name, case in reference.cases.items()
        if case.good and not ours.cases.get(name, missing).good
    }
    crashed = {name: case for name, case in ours.cases.items() if name not in reference.cases}
    return found | {name: case for name, case in crashed.items() if case.outcome == "failed"}


def modules() -> dict[str, str]:
    """The test modules that this Python has and that say something about a loop: short name -> full name."""
    if importlib.util.find_spec("test") is None:
        return {}
    package = importlib.util.find_spec("test.test_asyncio")
    if package is None or not package.submodule_search_locations:
        return {}
    files = sorted(Path(package.submodule_search_locations[0]).glob("test_*.py"))
    found = {path.stem.removeprefix("test_"): f"test.test_asyncio.{path.stem}" for path in files}
    for name in OTHER_MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(name) is not None:
                found[name.rpartition(".test_")[2]] = name
    return {short: name for short, name in found.items() if short not in WHOLE_FILES}


def run_file(file: str, loop: str | None) -> Run:
    """Run one of modules() without what is left out of it. loop: as `fdmon` of run_module."""
    return run_module(modules()[file], loop, tuple(entry.pattern for entry in left_out(file)))


def compare(file: str, loops: Sequence[str]) -> tuple[Run, list[str]]:
    """The run on the stdlib's loop, and what is to be said against those on ours, one after the other."""
    reference = run_file(file, None)
    complaints = []
    for loop in loops if not reference.module_skipped else ():
        ours = run_file(file, loop)
        for name, case in worse(reference, ours).items():
            complaints.append(f"=== {loop}: {name}: {case.outcome}\n{case.detail}")
        if bool(ours.on_our_loop) == (file in WITHOUT_LOOP):  # our loop was never asked: that would say nothing
            complaints.append(f"=== {loop}: {ours.on_our_loop} of the tests made a loop of ours")
    return reference, complaints
