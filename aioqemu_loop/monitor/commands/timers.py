"""Timers."""

from __future__ import annotations

import time
from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import LIMIT, MAYBE_STRING, command
from aioqemu_loop.monitor.naming import handle_name
from aioqemu_loop.monitor.session import Session


@command("query-timers", {"loop": MAYBE_STRING, "limit": LIMIT})
def query_timers(session: Session, loop: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Timers that are set, the next one first, with the seconds that are left; at most "limit" (1000) of each loop."""
    now = time.monotonic_ns()
    return [
        {
            "loop": probes.loop_id(chosen),
            "kind": type(timer).__name__,
            "seconds": (when - now) / 1e9,
            "callback": handle_name(timer),
        }
        for chosen in probes.chosen_loops(loop)
        for when, timer in probes.timers(chosen, limit)
    ]
