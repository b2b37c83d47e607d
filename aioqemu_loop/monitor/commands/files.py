"""File descriptors that loops watch, and the transports on them."""

from __future__ import annotations

from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import MAYBE_STRING, command
from aioqemu_loop.monitor.naming import file_kind, file_name, handle_name, type_name
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.transports import describe_transport


@command("query-handlers", {"loop": MAYBE_STRING})
def query_handlers(session: Session, loop: str | None = None) -> list[dict[str, Any]]:
    """Every fd that is watched: what it is, for which events, and the transport, server or callbacks it is watched for."""
    found = []
    for chosen in probes.chosen_loops(loop):
        for fd, events, owner in probes.handlers(chosen):
            reader, writer = owner if isinstance(owner, tuple) else (None, None)
            found.append(
                {
                    "loop": probes.loop_id(chosen),
                    "fd": fd,
                    "kind": file_kind(fd),
                    "file": file_name(fd),
                    "events": events,
                    "owner": None if isinstance(owner, tuple) else type_name(owner),
                    "reader": handle_name(reader),
                    "writer": handle_name(writer),
                }
            )
    return found


@command("query-transports", {"loop": MAYBE_STRING})
def query_transports(session: Session, loop: str | None = None) -> list[dict[str, Any]]:
    """Every open transport and listening server: its peer, what is buffered, and whether reading or writing is paused."""
    found = []
    for chosen in probes.chosen_loops(loop):
        for fd, _, owner in probes.handlers(chosen):
            if not isinstance(owner, tuple):
                described = describe_transport(fd, owner)
                if described is not None:
                    found.append({"loop": probes.loop_id(chosen), **described})
    return found
