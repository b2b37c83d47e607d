"""Tasks of a loop that another thread runs: what they do, and who waits for whom."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes
from aioqemu_loop.monitor.budget import Budget
from aioqemu_loop.monitor.naming import coroutine_name, is_function, partial_arguments, partial_function
from aioqemu_loop.monitor.stacks import task_stack
from aioqemu_loop.monitor.standard import (
    field,
    is_task,
    task_cancelling,
    task_coroutine,
    task_done,
    task_name,
    type_name,
)

Task = asyncio.Task[Any]
TaskGroup: Any = getattr(asyncio, "TaskGroup", None)  # 3.11


def all_tasks(loop: Loop) -> list[Task]:
    """Those that are not done, oldest first; those older than the monitor in no order."""
    return sorted(asyncio.all_tasks(loop), key=lambda task: probes.task_born(task) or 0.0)


async def describe_tasks(loop: Loop, limit: int, stacks: bool, budget: Budget) -> list[dict[str, Any]]:
    """The first `limit` of them, as they are one after the other."""
    tasks = all_tasks(loop)
    waiters = find_waiters(tasks)

    def describe(task: Task) -> dict[str, Any] | None:
        return None if task_done(task) else describe_task(loop, task, waiters.get(task, set()), stacks)

    return [found for found in await budget.map(describe, tasks[:limit]) if found is not None]


def describe_task(loop: Loop, task: Task, waiters: Iterable[Task], stacks: bool) -> dict[str, Any]:
    running = probes.current_task(loop) is task
    waits_for = field(task, "_fut_waiter")
    born = probes.task_born(task)
    coroutine = task_coroutine(task)
    found: dict[str, Any] = {
        "loop": probes.loop_id(loop),
        "id": probes.task_id(task),
        "name": task_name(task),
        "state": "running" if running else "ready" if waits_for is None else "waiting",
        "cancelling": task_cancelling(task),
        "coroutine": coroutine_name(coroutine),
        "age": None if born is None else round(time.monotonic() - born, 3),
        "waiting-for": None if waits_for is None else describe_future(waits_for),
        "awaited-by": sorted(probes.task_id(waiter) for waiter in waiters),
    }
    if stacks:
        found["stack"] = task_stack(coroutine, probes.thread_ident(loop) if running else None)
    return found


def describe_future(future: Any) -> dict[str, Any]:
    """What a task waits for: another task by its id, or the kind of future."""
    found = {"type": type_name(future), "task": None}
    if is_task(future):
        found["task"] = probes.task_id(future)
    return found


def find_waiters(tasks: Iterable[Task]) -> dict[Task, set[Task]]:
    """Task -> the tasks that wait for it: directly, or by gather(), wait(), wait_for(), shield() or a TaskGroup.

    From 3.14 on asyncio notes it. Before that it is seen in what is called when a task is done: such a callback holds
    the future that somebody waits for, or belongs to an object that knows the waiting task.
    """
    waiting = {id(future): task for task in tasks for future in [field(task, "_fut_waiter")] if future is not None}
    found: dict[Task, set[Task]] = {}
    for task in tasks:
        waiters = set(_noted_waiters(task))
        if id(task) in waiting:
            waiters.add(waiting[id(task)])
        for callback in _callbacks(task):
            for thing in _held_by(callback):
                if is_task(thing):
                    waiters.add(thing)
                elif id(thing) in waiting:
                    waiters.add(waiting[id(thing)])
        waiters.discard(task)
        found[task] = waiters
    return found


def _noted_waiters(future: Any, depth: int = 8) -> Iterator[Task]:
    for waiter in list(field(future, "_asyncio_awaited_by") or ()):
        if is_task(waiter):
            yield waiter
        elif depth:
            yield from _noted_waiters(waiter, depth - 1)


def _callbacks(task: Task) -> list[Any]:
    return [entry[0] for entry in list(field(task, "_callbacks") or ())]


def _held_by(callback: Any) -> Iterator[Any]:
    """Futures, and tasks that a group's callback stands for."""
    if issubclass(type(callback), functools.partial):
        yield from partial_arguments(callback)
        yield from _held_by(partial_function(callback))
        return
    if not is_function(callback):
        return  # its attributes may be code
    owner = getattr(callback, "__self__", None)
    if owner is not None:
        yield owner._parent_task if type(owner) is TaskGroup else owner
    for cell in getattr(callback, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # empty
            continue
