"""Loops and the threads that run them."""

from __future__ import annotations

import asyncio
from typing import Any

from aioqemu_loop.context.fdmons import fdmons
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.busiest import Timing
from aioqemu_loop.monitor.command import LIMIT, MAYBE_STRING, command, maybe_integer
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.standard import thread_attribute

_POLL_PARAM = maybe_integer(0, (1 << 63) - 1)


@command("query-loops", {"loop": MAYBE_STRING})
def query_loops(session: Session, loop: str | None = None) -> list[dict[str, Any]]:
    """Every loop that is not closed. "stalled" is for how many seconds one callback has held it, or null."""
    return [_describe_loop(session, chosen) for chosen in probes.chosen_loops(loop)]


def _describe_loop(session: Session, loop: Loop) -> dict[str, Any]:
    thread = probes.thread_of(loop)
    iothread = probes.iothread_of(loop)
    return {
        "id": probes.loop_id(loop),
        "running": loop.is_running(),
        "thread-id": thread_attribute(thread, "native_id"),
        "thread": thread_attribute(thread, "name"),
        "iothread": None if iothread is None else iothread.name,
        "fdmon": loop.fdmon,
        "debug": loop.get_debug(),
        "g-source": loop.context.g_source_mode,
        "tasks": len(asyncio.all_tasks(loop)),
        "poll-max-ns": loop.context.poll_max_ns,
        "stalled": session.monitor.stalls.stalled_for(loop),
    }


@command("query-iothreads")
def query_iothreads(session: Session) -> list[dict[str, Any]]:
    """The IOThreads that run, with QEMU's fields, and the id of each one's loop."""
    return [
        {
            "id": thread.name,
            "thread-id": thread.thread_id,
            "poll-max-ns": thread.poll_max_ns,
            "poll-grow": thread.poll_grow,
            "poll-shrink": thread.poll_shrink,
            "aio-max-batch": 0,
            "loop": probes.loop_id(thread.loop),
        }
        for thread in probes.program_iothreads()
    ]


@command("query-fdmon", {"loop": MAYBE_STRING})
async def query_fdmon(session: Session, loop: str | None = None) -> list[dict[str, Any]]:
    """The fd monitor of each loop; for every other one whether it could be used, and if not, the reason."""
    chosen = probes.chosen_loops(loop)
    # It tries them out, one of them in a process of its own.
    reasons = await asyncio.get_running_loop().run_in_executor(None, fdmons)
    return [
        {
            "loop": probes.loop_id(one),
            "fdmon": one.fdmon,
            "g-source": one.context.g_source_mode,
            "others": [
                {"name": name, "available": reason is None, "reason": reason}
                for name, reason in reasons.items()
                if name != one.fdmon
            ],
        }
        for one in chosen
        if not one.is_closed()
    ]


@command("query-metrics", {"loop": MAYBE_STRING})
def query_metrics(session: Session, loop: str | None = None) -> list[dict[str, Any]]:
    """The counters of each loop, see Loop.metrics()."""
    return [{"loop": probes.loop_id(chosen), "metrics": probes.metrics(chosen)} for chosen in probes.chosen_loops(loop)]


@command("query-busiest", {"loop": MAYBE_STRING, "milliseconds": maybe_integer(1, 1000), "limit": LIMIT})
async def query_busiest(
    session: Session, loop: str | None = None, milliseconds: int = 100, limit: int = 20
) -> list[dict[str, Any]]:
    """What loops spend their time in: every callback of the next "milliseconds" (100) is timed. Those of the same
    coroutine, protocol or function are one, with the share of the time that they had; at most "limit" (20) of each
    loop."""
    with Timing(probes.chosen_loops(loop)) as timing:
        await asyncio.sleep(milliseconds / 1000)
        return timing.busiest(limit)


@command(
    "set-poll-params",
    {
        "loop": MAYBE_STRING,
        "iothread": MAYBE_STRING,
        "poll-max-ns": _POLL_PARAM,
        "poll-grow": _POLL_PARAM,
        "poll-shrink": _POLL_PARAM,
    },
)
def set_poll_params(
    session: Session,
    loop: str | None = None,
    iothread: str | None = None,
    poll_max_ns: int | None = None,
    poll_grow: int | None = None,
    poll_shrink: int | None = None,
) -> dict[str, Any]:
    """Change the busy polling of one loop, chosen by its id or by its IOThread's. What is not given stays as it is."""
    if (loop is None) == (iothread is None):
        raise QMPError("Exactly one of 'loop' and 'iothread' must be given")
    chosen = _loop_of_iothread(iothread) if iothread is not None else probes.chosen_loops(loop)[0]
    probes.set_poll_params(chosen, poll_max_ns, poll_grow, poll_shrink)
    return {}


def _loop_of_iothread(name: str) -> Loop:
    for thread in probes.program_iothreads():
        if thread.name == name:
            return thread.loop
    raise QMPError(f"IOThread '{name}' not found")
