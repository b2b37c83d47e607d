"""CPython's own event tests on guests, whose run_forever() is GLib.MainLoop.run(), and on hosts."""

from __future__ import annotations

import pytest

import aioqemu_loop

from ..cpython.runs import compare, modules
from .real import glib_loops

# Those that start processes and servers, send signals, and set timers; for a guest or a host what else says much.
KINDS = {
    "events": ("guest-poll", "guest-kept-io_uring", "guest-set-epoll", "host-io_uring"),
    "subprocess": ("guest-poll",),
    "streams": ("host-io_uring",),
    "sock_lowlevel": ("guest-kept-io_uring",),
}


@pytest.mark.timeout(600)
@pytest.mark.skipif(not modules(), reason="this Python has no package test")
@pytest.mark.parametrize("file", KINDS)
def test_what_passes_on_the_stdlibs_loop_passes_beside_glib(file: str) -> None:
    fdmons = aioqemu_loop.fdmons()
    missing = [kind for kind in KINDS[file] if fdmons[glib_loops.backend_of(kind)] is not None]
    _, complaints = compare(file, [f"glib:{kind}" for kind in KINDS[file] if kind not in missing])
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
    if missing:
        pytest.skip(f"not run on {missing}, whose backends are not usable here: {fdmons}")
