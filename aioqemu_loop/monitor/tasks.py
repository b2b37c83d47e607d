"""Tasks of a loop that another thread runs: what they do, and who waits for whom."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.naming import FUNCTIONS, coroutine_name, type_name
from aioqemu_loop.monitor.stacks import task_stack

Task = asyncio.Task[Any]
TaskGroup: Any = getattr(asyncio, "TaskGroup", None)  # 3.11


def all_tasks(loop: Loop) -> list[Task]:
    """Those that are not done, oldest first; those older than the monitor in no order."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: probes.task_born(task) or 0.0)


def describe_tasks(loop: Loop, limit: int, stacks: bool) -> list[dict[str, Any]]:
    """The first `limit` of them."""
    tasks = all_tasks(loop)
    waiters = find_waiters(tasks)
    now = time.monotonic()
    return [describe_task(loop, task, waiters.get(task, set()), now, stacks) for task in tasks[:limit]]


def describe_task(loop: Loop, task: Task, waiters: Iterable[Task], now: float, stacks: bool) -> dict[str, Any]:
    running = probes.current_task(loop) is task
    waits_for = getattr(task, "_fut_waiter", None)
    born = probes.task_born(task)
    coroutine = task.get_coro()
    found: dict[str, Any] = {
        "loop": probes.loop_id(loop),
        "id": probes.task_id(task),
        "name": task.get_name(),
        "state": "running" if running else "ready" if waits_for is None else "waiting",
        "cancelling": bool(getattr(task, "_must_cancel", False) or (hasattr(task, "cancelling") and task.cancelling())),
        "coroutine": coroutine_name(coroutine),
        "age": None if born is None else round(now - born, 3),
        "waiting-for": None if waits_for is None else describe_future(waits_for),
        "awaited-by": sorted(probes.task_id(waiter) for waiter in waiters),
    }
    if stacks:
        found["stack"] = task_stack(coroutine, probes.thread_ident(loop) if running else None)
    return found


def describe_future(future: Any) -> dict[str, Any]:
    """What a task waits for: another task by its id, or the kind of future."""
    found = {"type": type_name(future), "task": None}
    if isinstance(future, asyncio.Task):
        found["task"] = probes.task_id(future)
    return found


def find_waiters(tasks: Iterable[Task]) -> dict[Task, set[Task]]:
    """Task -> the tasks that wait for it: directly, or by gather(), wait(), wait_for(), shield() or a TaskGroup.

    From 3.14 on asyncio notes it. Before that it is seen in what is called when a task is done: such a callback holds
    the future that somebody waits for, or belongs to an object that knows the waiting task.
    """
    waiting = {
        id(future): task for task in tasks for future in [getattr(task, "_fut_waiter", None)] if future is not None
    }
    found: dict[Task, set[Task]] = {}
    for task in tasks:
        waiters = set(_noted_waiters(task))
        if id(task) in waiting:
            waiters.add(waiting[id(task)])
        for callback in _callbacks(task):
            for thing in _held_by(callback):
                if issubclass(type(thing), asyncio.Task):
                    waiters.add(thing)
                elif id(thing) in waiting:
                    waiters.add(waiting[id(thing)])
        waiters.discard(task)
        found[task] = waiters
    return found


def _noted_waiters(future: Any, depth: int = 8) -> Iterator[Task]:
    for waiter in list(getattr(future, "_asyncio_awaited_by", None) or ()):
        if isinstance(waiter, asyncio.Task):
            yield waiter
        elif depth:
            yield from _noted_waiters(waiter, depth - 1)


def _callbacks(task: Task) -> list[Any]:
    return [entry[0] for entry in list(getattr(task, "_callbacks", None) or ())]


def _held_by(callback: Any) -> Iterator[Any]:
    """Futures, and tasks that a group's callback stands for."""
    if issubclass(type(callback), functools.partial):
        yield from callback.args
        yield from _held_by(callback.func)
        return
    if not issubclass(type(callback), FUNCTIONS):
        return  # its attributes may be code
    owner = getattr(callback, "__self__", None)
    if owner is not None:
        yield owner._parent_task if type(owner) is TaskGroup else owner
    for cell in getattr(callback, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty
            continue
