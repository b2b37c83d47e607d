"""`python -m pytest -p tests.leaks.hunt`: each test is run several times in one process; what it leaves is counted.

The whole protocol is repeated: function fixtures are made and torn down, those of wider scopes stay. Counted are

- memory blocks of the interpreter's allocator, which has every small object, also those that the garbage collector does
  not know (handles and timers, while a loop runs);
- objects of our compiled and Python types, by type;
- file descriptors, threads and children.

The first run is not counted: it fills caches. Where something has grown by one a run or more in the next two, the test
is run CONFIRMING times more, and all caches of functools are emptied after each; a leak is what still grows so, in both
halves of these runs. What a failed test leaves is not looked at.
"""

from __future__ import annotations

import array
import collections
import contextlib
import functools
import gc
import linecache
import os
import re
import sys
import threading
import types
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

COUNTED = 2  # runs
CONFIRMING = 12  # runs
RUNS_MAX = 1 + CONFIRMING
OURS = "aioqemu_loop"


def family() -> int:
    """How many children this process has, zombies too."""
    count = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just ended, and its children are another's
            count += len((thread / "children").read_text().split())
    return count


def clear_caches() -> None:
    """Those of the interpreter and the standard library that grow by what differs from run to run, as file names."""
    re.purge()
    linecache.clearcache()
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.14
        sys._clear_type_cache()  # of attributes: it keeps names that were put together


class Looks:
    """What there is after each run, by kind. Memory for it is taken in the first runs: else it would count itself."""

    def __init__(self) -> None:
        self.runs = 0
        self._counts: dict[str, array.array[int]] = {}

    def look(self) -> None:
        clear_caches()
        gc.collect()
        self._note("memory blocks", sys.getallocatedblocks())
        self._note("file descriptors", len(os.listdir("/proc/self/fd")))
        self._note("threads", threading.active_count())
        self._note("children", family())
        kinds = collections.Counter(type(each) for each in gc.get_objects())
        for kind, count in kinds.items():
            if str(kind.__module__).partition(".")[0] == OURS:
                self._note(f"{kind.__module__}.{kind.__qualname__}", count)
        self.runs += 1

    def _note(self, kind: str, count: int) -> None:
        if kind not in self._counts:
            self._counts[kind] = array.array("q", [0]) * RUNS_MAX
        self._counts[kind][self.runs] = count

    def grown(self) -> dict[str, int]:
        """kind -> by how much, where it has grown by one or more a run, and so it has in the second half."""
        half, last = self.runs // 2, self.runs - 1
        return {
            kind: counts[last] - counts[0]
            for kind, counts in self._counts.items()
            if counts[half] - counts[0] >= half and counts[last] - counts[half] >= last - half
        }


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports, left = hunt(item)
    if left:
        reports[-1].outcome = "failed"
        reports[-1].longrepr = "\n".join(f"left behind: {count} {kind}" for kind, count in left.items())
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    # Now the fixtures of wider scopes go, where this was the last test that uses them.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def forget_finished(item: Any) -> None:
    """Fixtures of wider scopes keep how to finish each function's fixture that has used them, finished or not."""
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        for definition in definitions:
            definition._finalizers[:] = [
                finalizer for finalizer in definition._finalizers if not finishes_function_scope(finalizer)
            ]


def finishes_function_scope(finalizer: Any) -> bool:
    definition = getattr(getattr(finalizer, "func", None), "__self__", None)
    return isinstance(definition, pytest.FixtureDef) and definition.scope == "function"


def hunt(item: pytest.Item) -> tuple[list[pytest.TestReport], dict[str, int]]:
    """The reports of the first run that did not pass, or of the last; and what all runs but the first have left."""
    reports, left = watch(item, 1 + COUNTED, [])
    if left:
        caches = [each for each in gc.get_objects() if isinstance(each, functools._lru_cache_wrapper)]
        reports, left = watch(item, 1 + CONFIRMING, caches)
    return reports, left


def watch(item: pytest.Item, runs: int, caches: list[Any]) -> tuple[list[pytest.TestReport], dict[str, int]]:
    # As if the next one were another test of the same class or module.
    sibling: Any = types.SimpleNamespace(listchain=lambda: [*item.listchain()[:-1], None])
    looks = Looks()
    gc.collect()
    gc.freeze()
    try:
        for _ in range(runs):
            reports = runtestprotocol(item, log=False, nextitem=sibling)
            if not all(report.passed for report in reports):
                return reports, {}
            forget_finished(item)
            for cache in caches:
                cache.cache_clear()
            looks.look()
        return reports, looks.grown()
    finally:
        gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """What a run has printed or logged is kept for its failure; else it would count as left behind."""
    report = yield
    if report.passed:
        report.sections.clear()
        item._report_sections.clear()
    return report
