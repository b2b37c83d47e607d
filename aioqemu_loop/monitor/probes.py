"""What the monitor reads of loops that other threads run: the only place that asks them.

All of it is read under the GIL and asks nothing of the loop's thread, so that it works while that is stuck. C code that
keeps the GIL stops the monitor as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import select
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from aioqemu_loop.context import inspection
from aioqemu_loop.context.core import add_quiet_threads as add_quiet_threads
from aioqemu_loop.fdmon.tracer import TRACE_EVENTS as TRACE_EVENTS
from aioqemu_loop.iothread.iothread import IOThread, iothreads
from aioqemu_loop.loop import registry
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.standard import thread_attribute
from aioqemu_loop.transports import inspection as transport_inspection

_EVENT_NAMES = ((select.POLLIN, "in"), (select.POLLOUT, "out"), (select.POLLPRI, "pri"), (select.POLLRDHUP, "rdhup"))

_numbers: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()
_next_number = itertools.count()
_own_loops: weakref.WeakSet[Loop] = weakref.WeakSet()
# Task -> its id. A number of our own, as addresses are used again.
_task_ids: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_next_task = itertools.count(1)


def loops() -> list[Loop]:
    """Those of the program that are not closed, oldest first."""
    return [loop for loop in registry.loops() if loop not in _own_loops]


def watch_new_loops(listener: Callable[[Loop], None]) -> None:
    """Have it called with each loop that is made, in the thread that makes it."""
    registry.listeners.append(listener)


def unwatch_new_loops(listener: Callable[[Loop], None]) -> None:
    registry.listeners.remove(listener)


def hide(loop: Loop) -> None:
    """A monitor's own loop is nobody's business."""
    _own_loops.add(loop)
    set_tracer(loop, None)
    note_task_births(loop, False)


def loop_id(loop: Loop) -> str:
    """ "loop0", "loop1", ...: for its life."""
    number = _numbers.get(loop)
    if number is None:
        number = _numbers.setdefault(loop, next(_next_number))
    return f"loop{number}"


def chosen_loops(name: str | None) -> list[Loop]:
    """The one of that id, or all. Raises QMPError where there is none."""
    found = loops()
    if name is None:
        return found
    found = [loop for loop in found if loop_id(loop) == name]
    if not found:
        raise QMPError(f"Loop '{name}' not found")
    return found


def program_iothreads() -> list[IOThread]:
    return [thread for thread in iothreads() if thread.loop not in _own_loops]


def iothread_of(loop: Loop) -> IOThread | None:
    return next((thread for thread in program_iothreads() if thread.loop is loop), None)


def thread_ident(loop: Loop) -> int | None:
    """threading.get_ident() of the thread that runs it, or None while it does not run."""
    ident: int | None = loop._thread_id
    return ident


def thread_of(loop: Loop) -> threading.Thread | None:
    ident = thread_ident(loop)
    return next((thread for thread in threading.enumerate() if thread_attribute(thread, "ident") == ident), None)


def progress(loop: Loop) -> tuple[tuple[int, int], bool]:
    """(what changes whenever a callback ends, whether the loop sleeps)."""
    turns, callbacks, asleep = inspection.progress(loop.context)
    return (turns, callbacks), asleep


def metrics(loop: Loop) -> dict[str, Any]:
    return dataclasses.asdict(loop.metrics())


def handlers(loop: Loop) -> list[tuple[int, list[str], Any]]:
    """(fd, names of the events that are watched, owner). The owner is a transport or a server's listener, or the tuple
    (what is called to read, what is called to write)."""
    return [
        (fd, [name for bit, name in _EVENT_NAMES if events & bit], owner)
        for fd, events, _, owner in inspection.handlers(loop.context)
    ]


def timers(loop: Loop, limit: int) -> list[tuple[int, Any]]:
    """(ns of the monotonic clock, TimerHandle or Timer), the next one first, not more than `limit`."""
    return inspection.timers(loop.context, limit)


def set_poll_params(loop: Loop, max_ns: int | None, grow: int | None, shrink: int | None) -> None:
    """None: as it is."""
    thread = iothread_of(loop)
    if thread is not None:  # it keeps them, too
        if max_ns is not None:
            thread.poll_max_ns = max_ns
        if grow is not None:
            thread.poll_grow = grow
        if shrink is not None:
            thread.poll_shrink = shrink
        return
    old_max_ns, old_grow, old_shrink = poll_params(loop)
    loop.context.set_poll_params(
        old_max_ns if max_ns is None else max_ns,
        old_grow if grow is None else grow,
        old_shrink if shrink is None else shrink,
    )
    loop.context.notify()


def poll_params(loop: Loop) -> tuple[int, int, int]:
    """(poll-max-ns, poll-grow, poll-shrink)."""
    return inspection.poll_params(loop.context)


def set_tracer(loop: Loop, callback: Callable[[str, dict[str, Any]], None] | None, names: Iterable[str] = ()) -> None:
    """The callback is called in the loop's thread."""
    if callback is None:
        loop.context.set_tracer(None)
    else:
        loop.context.set_tracer(callback, names)


def current_task(loop: Loop) -> Any:
    """The task that runs in it at this moment, or None."""
    return asyncio.current_task(loop)


def note_task_births(loop: Loop, wanted: bool) -> None:
    """Have tasks remember when they were made."""
    loop._notes_task_births = wanted


def task_born(task: Any) -> float | None:
    """Seconds of the monotonic clock, or None where it was made before anybody asked for that."""
    born: float | None = getattr(task, "_aioqemu_born", None)
    return born


def task_id(task: Any) -> str:
    found = _task_ids.get(task)
    if found is None:
        found = _task_ids.setdefault(task, f"task{next(_next_task)}")
    return found


def owner_of(source: Any) -> Any:
    """The transport or server of a callback's source, or None."""
    return inspection.owner_of(source)


def add_callback_listener(loop: Loop, listener: Callable[[Any, int], None]) -> None:
    """Have it called, in the loop's thread, with each callback's source and -1 before that runs, and with the ns that
    it took afterwards."""
    loop._callback_listeners = (*loop._callback_listeners, listener)
    if not loop.is_closed():
        loop.context.notify()


def remove_callback_listener(loop: Loop, listener: Callable[[Any, int], None]) -> None:
    loop._callback_listeners = tuple(other for other in loop._callback_listeners if other != listener)


def buffered(transport: Any) -> int:
    """Bytes that were written to it and are still here."""
    return transport_inspection.buffered(transport)
