"""Trace events of a context, on each backend."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import pytest

from aioqemu_loop import AioContext
from aioqemu_loop.fdmon.tracer import TRACE_EVENTS


@pytest.fixture
def traced(context):
    """The context, and what its tracer was told."""
    told = []
    context.set_tracer(lambda name, details: told.append((name, details)))
    return context, told


def test_handlers_and_monitors_are_traced(traced, pair) -> None:
    context, told = traced
    ours, _ = pair()
    context.set_fd_handler(ours, int)
    context.set_fd_handler(ours)
    before = context.fdmon
    context.set_fdmon("poll")
    assert told == [
        ("fd_handler_added", {"fd": ours.fileno(), "events": 1}),
        ("fd_handler_removed", {"fd": ours.fileno()}),
        ("fdmon_changed", {"old": before, "new": "poll"}),
    ]


def test_poll_mode_is_traced(fdmon, no_leaks) -> None:
    if fdmon == "liburing":
        pytest.skip("spinning goes without the GIL, and so without monitors in Python")
    context = AioContext(fdmon, 10**9)
    told = []
    context.set_tracer(lambda name, details: told.append((name, details)))
    try:
        timer = context.timer_new(lambda: None)
        deadline = time.monotonic() + 45
        # Where others want the CPU it rests for up to a second.
        while "run_poll_handlers_end" not in [name for name, _ in told] and time.monotonic() < deadline:
            timer.mod_ns(time.monotonic_ns() + 1_000_000)
            while not context.poll():
                pass
        names = [name for name, _ in told]
        assert told[0] == ("poll_grow", {"old": 0, "new": 4000})
        begin = names.index("run_poll_handlers_begin")
        assert names[begin + 1] == "run_poll_handlers_end"
        assert told[begin][1]["max-ns"] >= 4000
        assert set(told[begin + 1][1]) == {"progress", "timeout"}
    finally:
        context.close()


def test_operations_of_the_ring_are_traced(ring_loop, tmp_path) -> None:
    told = []
    read_end, write_end = os.pipe()
    to_read, to_write = os.pipe()
    os.write(write_end, b"12345")
    ring_loop.context.set_tracer(
        lambda name, details: told.append((name, details)), ["fdmon_io_uring_add_sqe", "fdmon_io_uring_cqe_handler"]
    )
    assert ring_loop.run_until_complete(ring_loop.uring.splice(read_end, to_write, 5)) == 5
    ring_loop.context.set_tracer(None)
    assert [name for name, _ in told] == ["fdmon_io_uring_add_sqe", "fdmon_io_uring_cqe_handler"]
    assert told[0][1]["opcode"] == 30  # IORING_OP_SPLICE
    assert told[1][1]["cqe-res"] == 5
    for fd in (read_end, write_end, to_read, to_write):
        os.close(fd)


def test_only_the_events_that_were_asked_for(context, pair) -> None:
    told = []
    ours, _ = pair()
    context.set_tracer(lambda name, details: told.append(name), ["fd_handler_removed"])
    context.set_fd_handler(ours, int)
    context.set_fd_handler(ours)
    assert told == ["fd_handler_removed"]
    context.set_tracer(None)
    context.set_fd_handler(ours, int)
    context.set_fd_handler(ours)
    assert told == ["fd_handler_removed"]
    with pytest.raises(ValueError, match="unknown trace events: no_such"):
        context.set_tracer(int, ["no_such"])


def test_a_tracer_that_is_taken_away_while_poll_mode_spins(fdmon, no_leaks) -> None:
    """As by another thread, which gets the GIL meanwhile."""
    if fdmon == "liburing":
        pytest.skip("spinning goes without the GIL, and so without monitors in Python")
    context = AioContext(fdmon, 10**9)
    told = []

    def trace(name, details):
        told.append(name)
        if name == "run_poll_handlers_begin":
            context.set_tracer(None)

    context.set_tracer(trace)
    try:
        timer = context.timer_new(lambda: None)
        deadline = time.monotonic() + 45
        while "run_poll_handlers_begin" not in told and time.monotonic() < deadline:
            timer.mod_ns(time.monotonic_ns() + 1_000_000)
            while not context.poll():
                pass
        assert told[-1] == "run_poll_handlers_begin"
    finally:
        context.close()


@pytest.fixture
def unraisable(monkeypatch):
    """[(type, object, whether there is a traceback)] of what goes to the hook. The collector does not see what the
    hook's own argument holds, so that is not kept."""
    told = []
    monkeypatch.setattr(
        "sys.unraisablehook", lambda it: told.append((it.exc_type, it.object, it.exc_traceback is not None))
    )
    return told


def test_a_tracer_that_takes_itself_away_and_raises(context, pair, unraisable) -> None:
    ours, _ = pair()

    def set_another() -> None:
        def trace(name, details):
            context.set_tracer(None)
            raise ZeroDivisionError(name)

        context.set_tracer(trace)

    set_another()
    context.set_fd_handler(ours, int)
    set_another()
    context.set_fd_handler(ours)
    assert [kind for kind, _, _ in unraisable] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("method, args", [("set_fdmon", ("poll",)), ("use_g_source", ()), ("close", ())])
def test_a_tracer_cannot_change_the_monitor(context, pair, method, args) -> None:
    """It is called in the middle of what the monitor does. Afterwards all is as before."""
    refused = []

    def trace(name, details):
        with pytest.raises(RuntimeError, match=f"{method}.. cannot be called by a trace callback") as caught:
            context.set_tracer(None)
            getattr(context, method)(*args)
        refused.append(caught)

    ours, theirs = pair()
    before = context.fdmon
    for wanted in (int, None):
        context.set_tracer(trace)
        context.set_fd_handler(ours, wanted)
    assert len(refused) == 2 and context.fdmon == before
    called = []
    context.set_fd_handler(ours, lambda: called.append(ours.recv(10)))
    theirs.send(b"x")
    context.set_fdmon("poll")
    while not called:
        context.poll(True)


def traced_by_one_that_raises(context, pair):
    """Two events happen meanwhile."""
    ours, _ = pair()

    def trace(name, details):
        raise ZeroDivisionError(name)

    context.set_tracer(trace)
    context.set_fd_handler(ours, int)
    context.set_fd_handler(ours)
    return trace


def test_pythons_own_hook_prints_what_a_tracer_raises(context, pair, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    traced_by_one_that_raises(context, pair)
    assert capsys.readouterr().err.count("ZeroDivisionError: fd_handler_added") == 1


def test_a_tracer_that_raises_changes_nothing(context, pair, unraisable) -> None:
    trace = traced_by_one_that_raises(context, pair)
    assert unraisable == [(ZeroDivisionError, trace, True)]


def test_names_are_all_there() -> None:
    assert len(set(TRACE_EVENTS)) == len(TRACE_EVENTS) == 9


def test_a_loop_goes_on_while_it_is_traced(loop) -> None:
    told = []
    loop.context.set_tracer(lambda name, details: told.append(name))

    async def main():
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    assert told.count("fd_handler_added") >= 3
