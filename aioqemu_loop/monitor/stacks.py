"""Stacks of threads and of coroutines, as lists of frames, outermost first.

A frame is {"file", "line", "function", "text"}; `text` is the line's source, or "" where it cannot be read. Other
threads go on while theirs are looked at, so a stack may be a moment old; it is never wrong memory.
"""

from __future__ import annotations

import linecache
import os
import stat
import sys
import threading
from types import FrameType
from typing import Any

from aioqemu_loop.monitor.naming import is_coroutine
from aioqemu_loop.monitor.standard import thread_attribute

MAX_DEPTH = 100
MAX_SOURCE = 16 << 20  # bytes

Frame = dict[str, Any]


def describe_frame(frame: FrameType) -> Frame:
    code = frame.f_code
    line = frame.f_lineno or 0
    return {
        "file": code.co_filename,
        "line": line,
        "function": getattr(code, "co_qualname", code.co_name),  # 3.11
        "text": _source_line(code.co_filename, line),
    }


def _source_line(file: str, number: int) -> str:
    """From a file, or from what Python has read already: a loader is the program's code, and reading what is no file
    may never end."""
    entry = linecache.cache.get(file)
    if entry is None:
        try:
            found = os.stat(file)
        except (OSError, ValueError):
            return ""
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SOURCE:
            return ""
    elif len(entry) == 1:  # to be read by the module's loader, once somebody asks
        return ""
    return linecache.getline(file, number).strip()


def frames_from(innermost: FrameType | None, end: FrameType | None = None) -> list[FrameType]:
    """The innermost MAX_DEPTH of those that called each other, outermost first; `end`: the outermost that is wanted."""
    found: list[FrameType] = []
    frame = innermost
    while frame is not None and len(found) < MAX_DEPTH:
        found.append(frame)
        if frame is end:
            break
        frame = frame.f_back
    return found[::-1]


def thread_stack(ident: int | None) -> list[Frame]:
    """Empty where there is no such thread any more."""
    innermost = None if ident is None else sys._current_frames().get(ident)
    return [describe_frame(frame) for frame in frames_from(innermost)]


def all_threads() -> list[dict[str, Any]]:
    """Every thread that runs Python code, also those that `threading` does not know (they have no name)."""
    known = {thread_attribute(thread, "ident"): thread for thread in threading.enumerate()}
    found = []
    for ident, innermost in sys._current_frames().items():
        thread = known.get(ident)
        found.append(
            {
                "name": thread_attribute(thread, "name"),
                "thread-id": thread_attribute(thread, "native_id"),
                "daemon": thread_attribute(thread, "daemon"),
                "stack": [describe_frame(frame) for frame in frames_from(innermost)],
            }
        )
    return found


def coroutine_frames(coroutine: Any) -> list[FrameType]:
    """A suspended coroutine's frames down to what it waits in."""
    found: list[FrameType] = []
    while is_coroutine(coroutine) and len(found) < MAX_DEPTH:
        for prefix, awaits in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(coroutine, f"{prefix}_frame", None)
            if frame is not None:
                found.append(frame)
                coroutine = getattr(coroutine, awaits, None)
                break
        else:
            break
    return found


def task_stack(coroutine: Any, thread_ident: int | None) -> list[Frame]:
    """thread_ident: of the thread that runs the task at this moment, or None where it waits."""
    frames = coroutine_frames(coroutine)
    if thread_ident is not None and frames:
        running = frames_from(sys._current_frames().get(thread_ident), frames[0])
        if running and running[0] is frames[0]:
            frames = running
    return [describe_frame(frame) for frame in frames]
