"""File descriptors that loops watch, and the transports on them."""

from __future__ import annotations

import heapq
from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import MAYBE_STRING, command, maybe_integer
from aioqemu_loop.monitor.naming import file_kind, file_name, handle_name, type_name
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.transports import describe_transport

_ARGUMENTS = {"loop": MAYBE_STRING, "limit": maybe_integer(1, 100_000)}


@command("query-handlers", _ARGUMENTS)
def query_handlers(session: Session, loop: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Every fd that is watched: what it is, for which events, and the transport, server or callbacks that it is watched
    for; at most "limit" (1000) of each loop."""
    found = []
    for chosen in probes.chosen_loops(loop):
        for fd, events, owner in probes.handlers(chosen)[:limit]:
            reader, writer = owner if isinstance(owner, tuple) else (None, None)
            found.append(
                {
                    "loop": probes.loop_id(chosen),
                    "fd": fd,
                    "kind": file_kind(fd),
                    "file": file_name(fd),
                    "events": events,
                    "owner": None if owner is None or isinstance(owner, tuple) else type_name(owner),
                    "reader": handle_name(reader),
                    "writer": handle_name(writer),
                }
            )
    return found


@command("query-transports", _ARGUMENTS)
def query_transports(session: Session, loop: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Every open transport and listening server: its peer, the bytes that are buffered, whether reading or writing is
    paused; at most "limit" (1000) of each loop, those with the most buffered bytes."""
    found = []
    for chosen in probes.chosen_loops(loop):
        transports = [(fd, owner) for fd, _, owner in probes.handlers(chosen) if not isinstance(owner, tuple)]
        if len(transports) > limit:
            transports = heapq.nlargest(limit, transports, key=lambda entry: probes.buffered(entry[1]))
        for fd, owner in transports:
            described = describe_transport(fd, owner)
            if described is not None:
                found.append({"loop": probes.loop_id(chosen), **described})
    return found
