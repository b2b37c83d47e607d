"""The leak hunt finds what it is made for, and nothing else."""

from __future__ import annotations

import collections
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import ctypes, os, threading
import pytest
from aioqemu_loop import AioContext, new_event_loop
from aioqemu_loop.context.handle import Handle

kept = []

@pytest.fixture(scope="module")
def of_the_module():
    made.append(0)
    yield made
    made.clear()

made = []

def test_tidy(tmp_path):
    (tmp_path / "file").write_text("text")
    loop = new_event_loop(fdmon="poll")
    loop.call_later(60, print)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()

def test_of_the_module(of_the_module):
    assert of_the_module == [0]

def test_block():
    kept.append(object())

def test_file_descriptor():
    os.dup(1)

def test_context():
    context = AioContext("poll")
    context.close()
    kept.append(context)

def test_object_that_the_collector_does_not_know():
    handle = ctypes.py_object(Handle())
    ctypes.pythonapi.PyObject_GC_UnTrack(handle)
    ctypes.pythonapi.Py_IncRef(handle)

def test_thread():
    over = threading.Event()
    kept.append(over)
    threading.Thread(target=over.wait, daemon=True).start()

def test_wrong():
    kept.append(object())
    assert False
"""


def test_each_kind_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.leaks.hunt", "-p", "no:cacheprovider", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    found = collections.defaultdict(set)
    for line in child.stdout.splitlines():
        if at := re.fullmatch("_+ ERROR at teardown of (.*?) _+", line):
            name = at[1]
        elif left := re.fullmatch(r"left behind: \d+ (.*)", line):
            found[name].add(left[1].rpartition(".")[2])
    assert found.pop("test_context") >= {"memory blocks", "AioContext", "ReadyQueue"}
    assert found.pop("test_thread") >= {"threads"}
    assert found == {
        "test_block": {"memory blocks"},
        "test_file_descriptor": {"file descriptors"},
        "test_object_that_the_collector_does_not_know": {"memory blocks"},
    }
    assert "1 failed, 7 passed, 5 errors" in child.stdout
