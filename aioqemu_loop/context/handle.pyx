"""asyncio's Handle and TimerHandle, compiled.

asyncio's own classes have __slots__ and cannot be a second base of a compiled class, so `__class__` answers for them:
isinstance(h, asyncio.Handle) is True. The private attributes that asyncio's code and debuggers read are here.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF

import inspect
import threading
from asyncio import events, format_helpers


from aioqemu_loop.context.ready cimport tracked_again
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport PyObject_GC_IsTracked, PyObject_GC_Track

cdef extern from "Python.h":
    PyObject *PyObject_Vectorcall(object callable, PyObject **args, size_t nargs, PyObject *kwnames)
    PyObject **tuple_items "&PyTuple_GET_ITEM" (object args, Py_ssize_t i)
    Py_ssize_t PyTuple_GET_SIZE(object args)
    # Without "except": a failure is seen by the caller, which lets Cython have it in raise_pending().
    int PyContext_Enter(object context)
    int PyContext_Exit(object context)
    object PyContext_CopyCurrent()
    void PyErr_Clear()

cdef extern from *:
    """
    #include "aioqemu_loop/system/freelist.h"
    AIO_FREELIST(aio_handles, 1024)
    AIO_FREELIST(aio_threadsafe_handles, 256)
    AIO_FREELIST(aio_timer_handles, 1024)
    """
    void aio_handles_install(PyTypeObject *type)
    void aio_threadsafe_handles_install(PyTypeObject *type)
    void aio_timer_handles_install(PyTypeObject *type)

cdef object asyncio_Handle = events.Handle
cdef object asyncio_TimerHandle = events.TimerHandle
cdef object asyncio_ThreadSafeHandle = getattr(events, "_ThreadSafeHandle", None)  # 3.14
cdef bint SOURCE_TAKES_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


cdef int raise_pending() except -1:
    """A C call has left an exception set: Cython sees it when this returns."""
    return -1


cdef class Handle(Runnable):
    """What call_soon returns. See asyncio.Handle."""

    @property
    def __class__(self):
        return asyncio_Handle

    cdef int run(self) except -1:
        cdef PyObject *result
        cdef bint entered
        if self.untracked:
            tracked_again(self, 1)  # the caller's
        if self._cancelled:
            return 0
        # The callback may cancel this handle, which drops the handle's own references.
        cdef object callback = self._callback
        cdef object context = self._context
        cdef tuple args = self._args
        entered = PyContext_Enter(context) == 0
        if not entered:
            if self.depth == 0:  # somebody passed the context that is running
                return self.report()
            PyErr_Clear()  # a reader's callback that runs a nested loop, in which the fd is ready again
        self.depth += 1
        result = PyObject_Vectorcall(callback, tuple_items(args, 0), PyTuple_GET_SIZE(args), NULL)
        self.depth -= 1
        if entered:
            PyContext_Exit(context)
        if result == NULL:
            return self.report()
        Py_DECREF(<object>result)
        return 1

    cdef int report(self) except -1:
        """Hand the exception that is set to the loop's exception handler; SystemExit and KeyboardInterrupt go on."""
        if not PyObject_GC_IsTracked(self):
            PyObject_GC_Track(self)  # that may keep it
        try:
            raise_pending()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if SOURCE_TAKES_DEBUG:
                source = format_helpers._format_callback_source(self._callback, self._args,
                                                                debug=self._loop.get_debug())
            else:
                source = format_helpers._format_callback_source(self._callback, self._args)
            details = {"message": f"Exception in callback {source}", "exception": exc, "handle": self}
            if self._source_traceback:
                details["source_traceback"] = self._source_traceback
            self._loop.call_exception_handler(details)
        return 1

    def _run(self):
        self.run()

    def cancel(self):
        if not self._cancelled:
            self._cancelled = True
            self.keep_repr()
            self._callback = None
            self._args = None

    cdef int keep_repr(self) except -1:
        """In debug mode keep the text, for "Executing <Handle ...> took 2.500 seconds"."""
        if self._loop is not None and self.debug[0]:
            self._repr = repr(self)
        return 0

    def cancelled(self):
        return self._cancelled

    def get_context(self):
        return self._context

    def _repr_info(self):
        return asyncio_Handle._repr_info(self)

    def __repr__(self):
        if self._repr is not None:
            return self._repr
        return f"<{' '.join(self._repr_info())}>"


cdef class ThreadSafeHandle(Handle):
    """What call_soon_threadsafe returns from 3.14 on: cancel() and cancelled(), called by another thread while the
    callback runs, return when it has ended. asyncio keeps a lock in each; here only a thread that waits makes one."""

    @property
    def __class__(self):
        return asyncio_ThreadSafeHandle

    cdef int run(self) except -1:
        self.running = True
        self.thread = PyThread_get_thread_ident()
        try:
            return Handle.run(self)
        finally:
            self.running = False
            if self.ended is not None:
                self.ended.set()
                self.ended = None

    cdef bint runs_elsewhere(self) noexcept:
        return self.running and self.thread != PyThread_get_thread_ident()

    cdef int wait_ended(self) except -1:
        while self.runs_elsewhere():
            if self.ended is None:
                self.ended = threading.Event()
            ended = self.ended  # run() lets go of its reference
            ended.wait()
        return 0

    def cancel(self):
        self.wait_ended()
        Handle.cancel(self)

    def cancelled(self):
        self.wait_ended()
        return self._cancelled


cdef class TimerHandle(Handle):
    """What call_later and call_at return. See asyncio.TimerHandle. `when()` is in seconds of loop.time()."""

    @property
    def __class__(self):
        return asyncio_TimerHandle

    @property
    def _scheduled(self):
        return self.timer_seq != 0

    def cancel(self):
        if not self._cancelled:
            if self.untracked:
                tracked_again(self, 1)  # the heap's, for a while
            if self.heap is not None:  # one that no loop has made
                self.heap.cancel(self)
            self._cancelled = True
            self.keep_repr()
            self._callback = None
            self._args = None

    def when(self):
        return self._when

    def _repr_info(self):
        info = asyncio_Handle._repr_info(self)
        info.insert(2 if self._cancelled else 1, f"when={self._when}")
        return info

    def __hash__(self):
        return hash(self._when)

    def __eq__(self, other):
        if not isinstance(other, TimerHandle):
            return NotImplemented
        return (self._when == other._when and self._callback == other._callback and self._args == other._args
                and self._cancelled == other._cancelled)

    def __lt__(self, other):
        return self._when < other._when if isinstance(other, TimerHandle) else NotImplemented

    def __le__(self, other):
        return self._when < other._when or self == other if isinstance(other, TimerHandle) else NotImplemented

    def __gt__(self, other):
        return self._when > other._when if isinstance(other, TimerHandle) else NotImplemented

    def __ge__(self, other):
        return self._when > other._when or self == other if isinstance(other, TimerHandle) else NotImplemented


cdef inline int set_up(Handle handle, object callback, tuple args, object loop, const bint *debug, object context) except -1:
    handle._callback = callback
    handle._args = args
    handle._loop = loop
    handle.debug = debug
    handle._context = PyContext_CopyCurrent() if context is None else context
    return 0


cdef Handle new_handle(object callback, tuple args, object loop, const bint *debug, object context):
    """`context` None: a copy of the current one."""
    cdef Handle handle = Handle.__new__(Handle)
    set_up(handle, callback, args, loop, debug, context)
    return handle


cdef Handle new_threadsafe_handle(object callback, tuple args, object loop, const bint *debug, object context):
    """What call_soon_threadsafe returns on this Python."""
    cdef Handle handle
    if asyncio_ThreadSafeHandle is None:
        return new_handle(callback, args, loop, debug, context)
    handle = ThreadSafeHandle.__new__(ThreadSafeHandle)
    set_up(handle, callback, args, loop, debug, context)
    return handle


cdef TimerHandle new_timer_handle(object when, object callback, tuple args, object loop, const bint *debug, object context,
                                  TimerHeap heap):
    cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
    set_up(handle, callback, args, loop, debug, context)
    handle._when = when
    handle.heap = heap
    return handle


aio_handles_install(<PyTypeObject *>Handle)
aio_threadsafe_handles_install(<PyTypeObject *>ThreadSafeHandle)
aio_timer_handles_install(<PyTypeObject *>TimerHandle)
