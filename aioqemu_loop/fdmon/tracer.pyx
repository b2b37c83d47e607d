"""Tracer: trace points of a context and its monitor. They cost a look at a None where nobody asked for them.

A tracer can be taken away at any time, by another thread or by its own callback: a trace point takes a local reference, and
looks at that.
"""

from cpython.pythread cimport PyThread_get_thread_ident

import cython

cdef extern from "Python.h":
    void PyErr_SetObject(object kind, object value)
    void PyErr_WriteUnraisable(object source)

# QEMU's names (util/trace-events) where it has the event; the last three are ours.
TRACE_EVENTS = (
    "run_poll_handlers_begin",
    "run_poll_handlers_end",
    "poll_grow",
    "poll_shrink",
    "fdmon_io_uring_add_sqe",
    "fdmon_io_uring_cqe_handler",
    "fd_handler_added",
    "fd_handler_removed",
    "fdmon_changed",
)

# Idents of the threads that are in a callback now.
cdef set telling = set()


def check_untraced(str what):
    """Raises RuntimeError in a trace callback: the monitor is in the middle of something there."""
    if PyThread_get_thread_ident() in telling:
        raise RuntimeError(f"{what}() cannot be called by a trace callback")


@cython.final
cdef class Tracer:
    """Calls `callback(name, details)` for the events in `names`. One that raises is told to sys.unraisablehook, and not
    called again: a trace point must not change what the program does."""

    def __init__(self, callback, names):
        self.callback = callback
        self.names = frozenset(names)
        unknown = self.names.difference(TRACE_EVENTS)
        if unknown:
            raise ValueError(f"unknown trace events: {', '.join(sorted(unknown))}")

    cdef int tell(self, str name, dict details) except -1:
        cdef object callback = self.callback
        if callback is None or name not in self.names:
            return 0
        thread = PyThread_get_thread_ident()
        cdef bint outermost = thread not in telling
        telling.add(thread)
        try:
            callback(name, details)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.callback = None
            PyErr_SetObject(type(exc), exc)
            PyErr_WriteUnraisable(callback)
        finally:
            if outermost:
                telling.discard(thread)
        return 0
