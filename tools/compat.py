"""Upstream test suites on this loop: `make compat`, or tools/compat.py [--fdmon io_uring,epoll] [--only NAME,...].

Takes the sdists of well-known asyncio projects from the package index, runs the tests in them on the stdlib's loop and
on ours, and compares: what passes there must pass here. A test that does not is run again by itself, on both, before
it counts. The table goes to docs/compatibility.md. Everything else stays in build/compat.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "compat"
PYTHON = BUILD / "venv" / "bin" / "python"
DOCUMENT = ROOT / "docs" / "compatibility.md"
HEADING = "## Upstream test suites"
RUN_DEADLINE = 1800  # seconds for one suite on one loop


@dataclass(frozen=True, eq=False)
class Suite:
    name: str
    needs: tuple[str, ...]  # what the tests import, beyond the package itself
    extras: str = ""
    arguments: tuple[str, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)  # part of a test's name -> why it says nothing about a loop
    package: str = ""  # whose tests these are, where the name is another one
    shims: bool = False  # instead of the package itself, what tools/shims has under its name

    @property
    def project(self) -> str:
        return self.package or self.name


SUITES = (
    Suite(
        "anyio",
        ("blockbuster", "hypothesis", "psutil", "pytest-mock", "pytest-timeout", "trustme", "truststore", "coverage"),
        arguments=("-m", "not network"),
        excluded={
            "test_asyncio_run_does_not_leak_event_loop": "a race with anyio's worker thread, which has the loop until "
            "it ends: in 100 runs the loop was gone at once in 49 to 62 on the stdlib's, 29 to 38 on this one"
        },
    ),
    Suite(
        "aiohttp",
        (
            *("blockbuster", "freezegun", "pytest-mock", "pytest-timeout", "pytest-asyncio", "pytest-codspeed"),
            *("pytest-cov", "pytest-xdist", "trustme", "proxy.py", "re-assert", "isal", "zlib_ng", "python-on-whales"),
            *("setuptools-git", "pkgconfig", "Brotli", "aiodns"),
        ),
        arguments=(
            *("-o", "addopts=", "-o", "asyncio_default_fixture_loop_scope=function", "--ignore=tests/autobahn"),
            *("--ignore-glob=*/test_benchmarks_*", "-p", "no:codspeed", "-n", "2"),
            *("-m", "not dev_mode and not autobahn and not internal"),
        ),
    ),
    Suite("websockets", ()),
    Suite(
        "uvicorn",
        (
            *("a2wsgi", "cryptography", "h11", "httptools", "httpx2", "pytest-codspeed", "pytest-mock"),
            *("pytest-xdist", "trustme", "wsproto"),
        ),
        extras="[standard]",
        arguments=("-o", "addopts=", "--ignore=tests/benchmarks"),
        excluded={"test_loop_auto": "asks whether the loop's class is one of asyncio's or uvloop's module"},
    ),
    Suite(
        "asyncssh",
        ("aiofiles", "bcrypt", "fido2", "ifaddr", "pyOpenSSL", "setuptools"),
    ),
    Suite("aiofiles", ("pytest-asyncio",)),
    Suite("aioqemu_loop.files", ("pytest-asyncio",), package="aiofiles", shims=True),
)  # fmt: skip


def call(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(word) for word in command], text=True, check=True, **options)


# --- fetching -------------------------------------------------------------------------------------


def fetch(suite: Suite) -> tuple[str, Path]:
    """The version and the unpacked sdist, without the package itself: the tests shall import the installed one."""
    downloads, where = BUILD / "sdists", BUILD / "unpacked" / suite.name
    shutil.rmtree(where, ignore_errors=True)
    shutil.rmtree(downloads / suite.name, ignore_errors=True)
    call(
        *(sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", suite.project),
        *("-d", downloads / suite.name, suite.project),
    )
    (archive,) = (downloads / suite.name).glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(where, filter="data")
        else:
            tar.extractall(where)
    (folder,) = where.iterdir()
    for package in (folder / suite.project, folder / "src"):
        shutil.rmtree(package, ignore_errors=True)
    return folder.name.rpartition("-")[2], folder


def has_tests(folder: Path) -> bool:
    return any((folder / "tests").rglob("test_*.py"))


def prepare(suites: dict[Suite, str]) -> None:
    """One environment with every package in the sdist's version, without uvloop: its tests would be run in vain."""
    shutil.rmtree(BUILD / "venv", ignore_errors=True)
    venv.create(BUILD / "venv", with_pip=True)
    wanted = {f"{suite.project}{suite.extras}=={version}" for suite, version in suites.items()}
    wanted |= {need for suite in suites for need in suite.needs} | {"pytest"}
    call(PYTHON, "-m", "pip", "install", "-qq", *sorted(wanted))
    call(PYTHON, "-m", "pip", "uninstall", "-qq", "-y", "uvloop")
    loop = BUILD / "loop" / "aioqemu_loop"  # the package alone: the project's root has a folder "tests", too
    loop.parent.mkdir(exist_ok=True)
    if not loop.is_symlink():
        loop.symlink_to(ROOT / "aioqemu_loop")


# --- running --------------------------------------------------------------------------------------


@dataclass
class Result:
    outcomes: dict[str, str]  # test -> passed, failed or skipped
    loops: int  # made by the kind of loop that was wanted

    def having(self, outcome: str) -> set[str]:
        return {test for test, got in self.outcomes.items() if got == outcome}


def run(suite: Suite, folder: Path, fdmon: str | None, *only: str) -> Result:
    report = BUILD / f"{suite.name}-{fdmon or 'stdlib'}{'-again' if only else ''}.xml"
    report.unlink(missing_ok=True)
    paths = [BUILD / "loop", ROOT / "tools", *([ROOT / "tools" / "shims"] if suite.shims else [])]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, paths))}
    if fdmon:
        environment["COMPAT_FDMON"] = fdmon
    excluded = " and ".join(f"not {name}" for name in suite.excluded)
    command = [PYTHON, "-m", "pytest", "-q", "-p", "compat_plugin", "-p", "no:cacheprovider", *suite.arguments]
    command += ["--junitxml", report, "-o", "junit_family=xunit1", *(only or ("tests",))]
    if excluded:
        command += ["-k", excluded]
    log = report.with_suffix(".log")
    with log.open("w") as output:
        subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=RUN_DEADLINE,
            check=False,
        )
    if not report.exists():
        raise SystemExit(f"{suite.name} wrote no report; see {log}")
    counted = re.search(r"^compat: (\d+) loops of ours, (\d+) of the stdlib's", log.read_text(), re.MULTILINE)
    return Result(outcomes_of(report), int(counted[1 if fdmon else 2]) if counted else 0)


def outcomes_of(report: Path) -> dict[str, str]:
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('file')}::{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None:
            outcome = "skipped"
        else:
            outcome = "passed"
        if outcomes.get(name) != "failed":  # a test that fails in its teardown stands there twice
            outcomes[name] = outcome
    return outcomes


def compare(suite: Suite, folder: Path, reference: Result, fdmon: str) -> tuple[Result, set[str]]:
    """The result on ours, and the tests that pass on the stdlib's loop and not on ours, twice."""
    result = run(suite, folder, fdmon)
    worse = reference.having("passed") - result.having("passed")
    if worse:
        files = sorted({test.partition("::")[0] for test in worse if not test.startswith("None")})
        again, reference_again = run(suite, folder, fdmon, *files), run(suite, folder, None, *files)
        for test in worse & again.having("passed"):
            result.outcomes[test] = "passed"
        worse -= again.having("passed")
        worse -= reference_again.having("failed")  # as uncertain there
    return result, worse


# --- telling --------------------------------------------------------------------------------------


def row(suite: Suite, version: str, folder: Path, fdmons: list[str]) -> tuple[str, list[str]]:
    """The table's row, and what differs."""
    start = f"| {suite.name} | {version} | {datetime.date.today().isoformat()}, {platform.python_version()} |"
    if not has_tests(folder):
        return f"{start} no tests in its sdist |" + " |" * len(fdmons), []
    print(f"{suite.name} {version} on the stdlib's loop", flush=True)
    reference = run(suite, folder, None)
    if not reference.having("passed"):
        raise SystemExit(f"{suite.name}: not one test passed on the stdlib's loop; see {BUILD / suite.name}-stdlib.log")
    cells, differences = [describe(reference)], []
    for fdmon in fdmons:
        print(f"{suite.name} {version} on {fdmon}", flush=True)
        result, worse = compare(suite, folder, reference, fdmon)
        cells.append(f"{describe(result)}; {len(worse)} worse")
        differences += [f"- {suite.name}, {fdmon}: `{test}`" for test in sorted(worse)]
        if not result.loops:
            differences.append(f"- {suite.name}, {fdmon}: not one loop of ours was made")
    return f"{start} {' | '.join(cells)} |", differences


def describe(result: Result) -> str:
    passed, failed, skipped = (len(result.having(outcome)) for outcome in ("passed", "failed", "skipped"))
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def section(old: str, done: dict[str, tuple[str, list[str]]], fdmons: list[str]) -> str:
    """Our section of the document. Suites that were not run keep what the old one says of them."""
    rows, differences = [], []
    for suite in SUITES:
        if suite.name in done:
            rows.append(done[suite.name][0])
            differences += done[suite.name][1]
        else:
            rows += re.findall(rf"^\| {suite.name} \|.*", old, re.MULTILINE)
            differences += re.findall(rf"^- {suite.name}, .*", old.partition("Left out")[0], re.MULTILINE)
    excluded = [f"- {suite.name}, `{name}`: {why}" for suite in SUITES for name, why in suite.excluded.items()]
    lines = [
        HEADING,
        "",
        "From `make compat`. The newest sdist of each project that runs on this Python; its own tests with the",
        "stdlib's loop and with this one in its place. A test is worse if it passes on the stdlib's loop and does not",
        "pass on ours, in two runs. What fails on both was not looked into; most of anyio's want IPv6.",
        "`aioqemu_loop.files` stands for aiofiles' tests, run on our files by the names of `tools/shims`.",
        "",
        f"| suite | version | run on, with Python | stdlib's loop | {' | '.join(fdmons)} |",
        "|---" * (4 + len(fdmons)) + "|",
        *rows,
    ]
    if differences:
        lines += ["", "Worse:", "", *differences]
    if excluded:
        lines += ["", "Left out on every loop:", "", *excluded]
    return "\n".join(lines) + "\n"


def write(done: dict[str, tuple[str, list[str]]], fdmons: list[str]) -> None:
    """Replace our section, up to the next heading of its level, or append it."""
    text = DOCUMENT.read_text() if DOCUMENT.exists() else "# Compatibility\n"
    before, _, after = text.partition(HEADING)
    old, heading, rest = after.partition("\n## ")
    DOCUMENT.write_text(f"{before.rstrip()}\n\n{section(old, done, fdmons)}{heading}{rest}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fdmon", default="io_uring,epoll", help="the monitors to run on, with commas")
    parser.add_argument("--only", default=",".join(suite.name for suite in SUITES), help="the suites, with commas")
    given = parser.parse_args()
    fdmons, names = given.fdmon.split(","), given.only.split(",")
    BUILD.mkdir(parents=True, exist_ok=True)
    fetched = {suite.name: (suite, *fetch(suite)) for suite in SUITES if suite.name in names}
    prepare({suite: version for suite, version, folder in fetched.values() if has_tests(folder)})
    done = {}
    for suite, version, folder in fetched.values():
        done[suite.name] = row(suite, version, folder, fdmons)
        print(done[suite.name][0], *done[suite.name][1], sep="\n", flush=True)
        write(done, fdmons)
    return 1 if any(differences for _, differences in done.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
