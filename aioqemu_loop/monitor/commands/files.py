"""File descriptors that loops watch, and the transports on them."""

from __future__ import annotations

import heapq
from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import LIMIT, MAYBE_STRING, command
from aioqemu_loop.monitor.naming import file_kind, file_name, handle_name
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.standard import type_name
from aioqemu_loop.monitor.transports import describe_transport

_ARGUMENTS = {"loop": MAYBE_STRING, "limit": LIMIT}


@command("query-handlers", _ARGUMENTS)
async def query_handlers(session: Session, loop: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Every fd that is watched: what it is, for which events, and the transport, server or callbacks that it is watched
    for; at most "limit" (1000) of each loop."""
    found = []
    for chosen in probes.chosen_loops(loop):
        described = await session.monitor.budget.map(_describe_handler, probes.handlers(chosen)[:limit])
        found += [{"loop": probes.loop_id(chosen), **entry} for entry in described]
    return found


def _describe_handler(handler: tuple[int, list[str], Any]) -> dict[str, Any]:
    fd, events, owner = handler
    reader, writer = owner if isinstance(owner, tuple) else (None, None)
    return {
        "fd": fd,
        "kind": file_kind(fd),
        "file": file_name(fd),
        "events": events,
        "owner": None if owner is None or isinstance(owner, tuple) else type_name(owner),
        "reader": handle_name(reader),
        "writer": handle_name(writer),
    }


@command("query-transports", _ARGUMENTS)
async def query_transports(session: Session, loop: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Every open transport and listening server: its peer, the bytes that are buffered, whether reading or writing is
    paused; at most "limit" (1000) of each loop, those with the most buffered bytes."""
    found = []
    for chosen in probes.chosen_loops(loop):
        transports = [(fd, owner) for fd, _, owner in probes.handlers(chosen) if not isinstance(owner, tuple)]
        if len(transports) > limit:
            transports = heapq.nlargest(limit, transports, key=lambda entry: probes.buffered(entry[1]))
        for described in await session.monitor.budget.map(describe_transport, transports):
            if described is not None:
                found.append({"loop": probes.loop_id(chosen), **described})
    return found
