"""CPython's own event tests on guests, whose run_forever() is GLib.MainLoop.run(), and on hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import aioqemu_loop

from ..cpython.runs import Runs, modules, worse
from .real import glib_loops

# Those that start processes and servers, send signals, and set timers; for a guest or a host what else says much.
PAIRS = [("events", kind) for kind in ("guest-poll", "guest-kept-io_uring", "guest-set-epoll", "host-io_uring")]
PAIRS += [("subprocess", "guest-poll"), ("streams", "host-io_uring"), ("sock_lowlevel", "guest-kept-io_uring")]

pytestmark = [
    pytest.mark.xdist_group("cpython"),  # as tests/cpython: these keep two processors busy
    pytest.mark.timeout(600),
    pytest.mark.skipif(not modules(), reason="this Python has no package test"),
]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.close()


@pytest.mark.parametrize(("file", "kind"), PAIRS)
def test_what_passes_on_the_stdlibs_loop_passes_beside_glib(runs: Runs, file: str, kind: str) -> None:
    reason = aioqemu_loop.fdmons()[glib_loops.backend_of(kind)]
    if reason is not None:
        pytest.skip(f"{kind} is not usable here: {reason}")
    reference = runs.start(file, None)
    ours = runs.start(file, f"glib:{kind}").result()
    failed = worse(reference.result(), ours)
    if failed:
        pytest.fail("\n".join(f"=== {name}: {case.outcome}\n{case.detail}" for name, case in failed.items()), False)
    assert ours.on_our_loop
