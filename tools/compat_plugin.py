"""A pytest plugin (-p compat_plugin): asyncio's default loop is ours, on the monitor that COMPAT_FDMON names.

It goes to the root, the class that asyncio itself makes loops of, so that whatever a suite uses (asyncio.run, policies,
pytest-asyncio, anyio's runner, uvicorn's loop factory) comes to it. Without COMPAT_FDMON it only counts.
"""

import asyncio
import os

import pytest

stdlib_loop = asyncio.SelectorEventLoop
FDMON = os.environ.get("COMPAT_FDMON")
made = {"ours": 0, "stdlib": 0}


def count_stdlib_loops():
    init = stdlib_loop.__init__

    def counting(self, *args, **kwargs):
        made["stdlib"] += 1
        init(self, *args, **kwargs)

    stdlib_loop.__init__ = counting


def take_its_place():
    import aioqemu_loop

    class SelectorEventLoop(aioqemu_loop.Loop):
        def __init__(self, selector=None):
            made["ours"] += 1
            super().__init__(FDMON)

    SelectorEventLoop.__name__ = stdlib_loop.__name__  # it stands in the names of tests
    asyncio.SelectorEventLoop = SelectorEventLoop
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = SelectorEventLoop
    base = aioqemu_loop.EventLoopPolicy.__base__
    if hasattr(base, "_loop_factory"):
        base._loop_factory = SelectorEventLoop
    else:  # a Python without policies
        asyncio.new_event_loop = asyncio.events.new_event_loop = SelectorEventLoop


count_stdlib_loops()
if FDMON:
    take_its_place()


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of pytest-xdist's workers
        session.config.workeroutput["loops_made"] = made


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for kind, count in getattr(node, "workeroutput", {}).get("loops_made", {}).items():
        made[kind] += count


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"compat: {made['ours']} loops of ours, {made['stdlib']} of the stdlib's")
