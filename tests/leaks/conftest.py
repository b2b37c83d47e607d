"""What is left after a great many of something: fds, objects, memory, children."""

from __future__ import annotations

import collections
import contextlib
import gc
import os
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGESIZE")
KIB = 1024
# The top-level modules whose objects are counted.
COUNTED = {"aioqemu_loop", "asyncio", "_asyncio", "ssl", "_ssl", "socket", "tests"}


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def children():
    """Pids of children, zombies too."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def objects():
    """How many objects there are, by type. (type(), for transports' and handles' __class__ is asyncio's.)"""
    gc.collect()
    kinds = collections.Counter(type(each) for each in gc.get_objects())
    return collections.Counter(
        {
            f"{kind.__module__}.{kind.__qualname__}": count
            for kind, count in kinds.items()
            if str(kind.__module__).split(".")[0] in COUNTED  # in PyGObject's types it is no str
        }
    )


@contextlib.contextmanager
def nothing_left(grown_max):
    """Fails where there are more fds, children or objects after than before, or more than `grown_max` bytes of memory.
    The caller has warmed up: what is made once is there already."""
    kept, fds, family = objects(), len(os.listdir("/proc/self/fd")), children()
    memory = resident()
    yield
    left = objects() - kept
    grown = resident() - memory
    assert not left
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert children() <= family
    assert grown <= grown_max, f"grown by {grown // KIB} KiB"


@pytest.fixture
def leaves_nothing():
    return nothing_left
