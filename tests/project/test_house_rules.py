"""The rules of the house: imports go down the floors only, files stay small, nothing generated is committed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aioqemu_loop"
# From the lowest floor up; a folder may import itself and what stands before it.
FLOORS = (
    "_version",
    "system",
    "uring",
    "fdmon",
    "context",
    "transports",
    "loop",
    "glib",
    "iothread",
    "files",
    "monitor",
    "",
)
IMPORT = re.compile(r"^\s*(?:from|cimport|import)\s+aioqemu_loop\.?([a-z_]*)", re.MULTILINE)
# The loop and the transports meet in the loop's Python half only: neither compiled half imports the other.
LINES_MAX = 600


def sources() -> list[Path]:
    return [path for ending in ("py", "pyx", "pxd", "pyi", "h") for path in PACKAGE.rglob(f"*.{ending}")]


def floor_of(path: Path) -> str:
    folder = path.relative_to(PACKAGE).parts[0]
    return folder if folder in FLOORS else ""


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    own = FLOORS.index(floor_of(path))
    for name in IMPORT.findall(path.read_text()):
        imported = name if name in FLOORS else ""
        assert FLOORS.index(imported) <= own, f"{path.name} imports from {name or 'the top'}, a higher floor"


def test_compiled_loop_and_transports_do_not_know_each_other() -> None:
    for path in (PACKAGE / "loop").glob("*.p[xy]*"):
        if path.suffix in (".pyx", ".pxd"):
            assert "transports" not in IMPORT.findall(path.read_text()), path


def test_backends_know_no_sibling() -> None:
    names = {"poll", "epoll", "io_uring", "liburing"}
    for path in (PACKAGE / "fdmon").glob("*.p*"):
        imported = set(re.findall(r"^from aioqemu_loop\.fdmon\.([a-z_]+)", path.read_text(), re.MULTILINE))
        assert not imported & names - {path.stem}, path


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_no_text_includes_and_no_void_that_swallows_exceptions() -> None:
    for path in sources():
        text = path.read_text()
        assert not re.search(r'^include "', text, re.MULTILINE), path
        for line in re.findall(r"^\s*cdef (?:inline )?void \w+\(.*", text, re.MULTILINE):
            assert "noexcept" in line, f"{path}: {line.strip()}"


def test_nothing_generated_is_committed() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout")
    generated = [name for name in tracked if name.endswith((".so", ".o", ".pyc")) or name.startswith("build/")]
    generated += [name for name in tracked if name.startswith("aioqemu_loop/") and name.endswith(".c")]
    assert not generated


def test_every_compiled_module_has_a_stub_or_is_internal() -> None:
    without = {
        "poll_mode",
        "stream_reader",
        "ready",
        "timers",
        "sockaddr",
        "errors",
        "engine",
        "buffers",
        "completion",
        "readiness",
        "write_queue",
        "base",
        "writing",
        "tls_pipe",
        "tls_writing",
        "libglib",
        "operation",
        "operations",
        "iovecs",
        "transfers",
        "ways",
    }
    missing = {path.stem for path in PACKAGE.rglob("*.pyx") if not path.with_suffix(".pyi").exists()}
    assert missing == without


def test_import_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import aioqemu_loop\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "other = new - set(sys.stdlib_module_names) - {'aioqemu_loop', '_cython_3_3_1', 'cython_runtime'}\n"
        "other.discard('_xxsubinterpreters')  # CPython's own, which it does not list\n"
        "print(sorted(name for name in other if not name.startswith('_cython')))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
