"""Tasks."""

from __future__ import annotations

from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import LIMIT, MAYBE_BOOLEAN, MAYBE_STRING, STRING, command
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.tasks import all_tasks, describe_tasks


@command("query-tasks", {"loop": MAYBE_STRING, "limit": LIMIT, "stacks": MAYBE_BOOLEAN})
async def query_tasks(
    session: Session, loop: str | None = None, limit: int = 1000, stacks: bool = True
) -> list[dict[str, Any]]:
    """Tasks that are not done: state, coroutine, age in seconds (null for those older than the monitor), what it waits
    for and who waits for it, and unless "stacks" is false its stack; at most "limit" (1000) of each loop."""
    found = []
    for chosen in probes.chosen_loops(loop):
        found += await describe_tasks(chosen, limit, stacks, session.monitor.budget)
    return found


@command("task-cancel", {"loop": STRING, "task": STRING})
def task_cancel(session: Session, loop: str, task: str) -> dict[str, Any]:
    """Have the loop cancel a task, by the id that query-tasks tells. A loop that is stuck does it when it goes on."""
    for chosen in probes.chosen_loops(loop):
        for candidate in all_tasks(chosen):
            if probes.task_id(candidate) == task:
                try:
                    chosen.call_soon_threadsafe(candidate.cancel)
                except RuntimeError as exc:  # closed a moment ago
                    raise QMPError(str(exc)) from exc
                return {}
    raise QMPError(f"Task '{task}' not found")
