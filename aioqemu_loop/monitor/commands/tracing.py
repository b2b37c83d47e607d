"""Trace events."""

from __future__ import annotations

import fnmatch
from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import BOOLEAN, STRING, command
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.session import Session


@command("trace-event-get-state", {"name": STRING})
def trace_event_get_state(session: Session, name: str) -> list[dict[str, Any]]:
    """Whether this client gets trace events; the name may have the wildcards * and ?."""
    return [
        {"name": found, "state": "enabled" if found in session.trace.names else "disabled"} for found in _matching(name)
    ]


@command("trace-event-set-state", {"name": STRING, "enable": BOOLEAN})
def trace_event_set_state(session: Session, name: str, enable: bool) -> dict[str, Any]:
    """Send trace events to this client, as TRACE, or stop that; the name may have the wildcards * and ?. Without end
    they are off when the client goes."""
    found = frozenset(_matching(name))
    session.trace.choose(session.trace.names | found if enable else session.trace.names - found)
    return {}


def _matching(pattern: str) -> list[str]:
    found = [name for name in probes.TRACE_EVENTS if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise QMPError(f"unknown event '{pattern}'")
    return found
