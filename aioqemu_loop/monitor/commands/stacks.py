"""What every thread is doing."""

from __future__ import annotations

from typing import Any

from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.command import MAYBE_BOOLEAN, command
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.stacks import all_threads
from aioqemu_loop.monitor.tasks import describe_tasks

_MAX_TASKS = 1000


@command("dump-stacks", {"tasks": MAYBE_BOOLEAN})
async def dump_stacks(session: Session, tasks: bool = False) -> dict[str, Any]:
    """The stacks of all threads, also of one that is stuck; with "tasks" those of every loop's tasks, too."""
    answer: dict[str, Any] = {"threads": all_threads()}
    if tasks:
        answer["tasks"] = []
        for loop in probes.loops():
            answer["tasks"] += await describe_tasks(loop, _MAX_TASKS, True, session.monitor.budget)
    return answer
