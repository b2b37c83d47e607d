"""asyncio's Handle and TimerHandle, compiled.

asyncio's own classes have __slots__ and cannot be a second base of a compiled class, so `__class__` answers for them:
isinstance(h, asyncio.Handle) is True. The private attributes that asyncio's code and debuggers read are here.
"""

from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF

import inspect
import threading
from asyncio import events, format_helpers

from aioqemu_loop.context.ready cimport tracked_again
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.system.objects cimport Py_REFCNT, PyObject_GC_IsTracked, PyObject_GC_Track

cdef extern from "Python.h":
    const size_t PY_VECTORCALL_ARGUMENTS_OFFSET
    PyObject *PyObject_Vectorcall(object callable, PyObject *const *args, size_t nargs, PyObject *kwnames)
    PyObject **tuple_items "&PyTuple_GET_ITEM" (object args, Py_ssize_t i)
    object PyTuple_New(Py_ssize_t size)
    void PyTuple_SET_ITEM(object args, Py_ssize_t i, object item)
    # Without "except": a failure is seen by the caller, which lets Cython have it in raise_pending().
    int PyContext_Enter(PyObject *context)
    int PyContext_Exit(PyObject *context)
    object PyContext_CopyCurrent()
    object PyContext_New()
    Py_ssize_t PyObject_Size(PyObject *context) except -1
    void PyErr_Clear()

cdef extern from *:
    """
    #include "aioqemu_loop/system/freelist.h"
    AIO_FREELIST(aio_handles, 1024)
    AIO_FREELIST(aio_threadsafe_handles, 1024)
    AIO_FREELIST(aio_timer_handles, 1024)

    /* Whether the current context holds no variable. `context` is in the public struct of a thread's state, of which no
       function tells it. */
    static inline int aio_context_is_empty(void) {
        PyObject *context = PyThreadState_Get()->context;
        return context == NULL || PyObject_Size(context) == 0;
    }
    #define AIO_INLINE_ARGUMENTS(handle) (&(handle)->first)

    /* The references of a handle of name_take(), which are NULL, are set without a look at what was there. Of one that its
       tp_new made they are None. */
    #if PY_VERSION_HEX >= 0x030C0000
    #define AIO_NONE() Py_None /* which is not counted from 3.12 on */
    #define AIO_FORGET_NONES(count)
    #else
    #define AIO_NONE() Py_NewRef(Py_None)
    #define AIO_FORGET_NONES(count) Py_SET_REFCNT(Py_None, Py_REFCNT(Py_None) - (count))
    #endif
    #define AIO_OR_NONE(object) ((object) == NULL ? AIO_NONE() : Py_NewRef(object))
    #define AIO_FILL_HANDLE(handle, callback_, loop_, first_, second_)                                  \
        do {                                                                                            \
            (handle)->_callback = Py_NewRef(callback_);                                                 \
            (handle)->_loop = Py_NewRef(loop_);                                                         \
            (handle)->first = AIO_OR_NONE(first_);                                                      \
            (handle)->second = AIO_OR_NONE(second_);                                                    \
            (handle)->own_context = AIO_NONE();                                                         \
            (handle)->notes = AIO_NONE();                                                               \
            (handle)->arguments = AIO_NONE();                                                           \
        } while (0)
    #define AIO_FILL_THREADSAFE(handle) ((handle)->ended = AIO_NONE())
    #define AIO_FILL_TIMER(handle, heap_)                                                               \
        do {                                                                                            \
            (handle)->given_when = AIO_NONE();                                                          \
            (handle)->heap = (void *)Py_NewRef(heap_);                                                  \
        } while (0)
    """
    bint aio_handles_install(PyTypeObject *type)
    bint aio_threadsafe_handles_install(PyTypeObject *type)
    bint aio_timer_handles_install(PyTypeObject *type)
    PyObject *aio_handles_take(PyTypeObject *type)
    PyObject *aio_threadsafe_handles_take(PyTypeObject *type)
    PyObject *aio_timer_handles_take(PyTypeObject *type)
    void forget_nones "AIO_FORGET_NONES" (Py_ssize_t count)
    void fill_handle "AIO_FILL_HANDLE" (Handle handle, PyObject *callback, PyObject *loop, PyObject *first, PyObject *second)
    void fill_threadsafe "AIO_FILL_THREADSAFE" (ThreadSafeHandle handle)
    void fill_timer "AIO_FILL_TIMER" (TimerHandle handle, PyObject *heap)
    bint aio_context_is_empty() except -1
    PyObject **inline_arguments "AIO_INLINE_ARGUMENTS" (Handle handle)

cdef enum:
    HANDLE_FIELDS = 7  # of AIO_FILL_HANDLE
    THREADSAFE_FIELDS = 1
    TIMER_FIELDS = 2

cdef object asyncio_Handle = events.Handle
cdef object asyncio_TimerHandle = events.TimerHandle
cdef object asyncio_ThreadSafeHandle = getattr(events, "_ThreadSafeHandle", None)  # 3.14
cdef bint SOURCE_TAKES_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


# See system/freelist.h.
cdef bint MADE_UNTRACKED
# An empty context that nobody has: the next handle that needs one runs in it. None while one does; other threads' handles
# then make their own.
cdef object spare_context = None


cdef tuple new_tuple(PyObject *const *items, Py_ssize_t count):
    cdef tuple made = PyTuple_New(count)
    cdef Py_ssize_t i
    for i in range(count):
        Py_INCREF(<object>items[i])
        PyTuple_SET_ITEM(made, i, <object>items[i])
    return made


cdef int raise_pending() except -1:
    """A C call has left an exception set: Cython sees it when this returns."""
    return -1


cdef class Handle(Runnable):
    """What call_soon returns. See asyncio.Handle."""

    @property
    def __class__(self):
        return asyncio_Handle

    cdef int run(self) except -1:
        global spare_context
        cdef PyObject *result
        cdef PyObject *context
        cdef bint entered
        cdef bint lent = self.own_context is None
        if self.untracked:
            tracked_again(self, 1)  # the caller's
        if self._cancelled:
            return 0
        cdef object callback = self._callback  # which cancel() lets go of
        if lent:
            self.own_context, spare_context = spare_context, None
            if self.own_context is None:
                self.own_context = PyContext_New()
        context = <PyObject *>self.own_context
        entered = PyContext_Enter(context) == 0
        if not entered:
            if self.depth == 0:  # somebody passed the context that is running
                return self.report()
            PyErr_Clear()  # a reader's callback that runs a nested loop, in which the fd is ready again
        self.depth += 1
        if self.count <= INLINE_ARGUMENTS:
            result = PyObject_Vectorcall(callback, inline_arguments(self), self.count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
        else:
            result = PyObject_Vectorcall(callback, tuple_items(self.arguments, 0), self.count, NULL)
        self.depth -= 1
        if entered:
            PyContext_Exit(context)
        if result == NULL:
            return self.report()
        Py_DECREF(<object>result)
        if lent and Py_REFCNT(self.own_context) == 1 and PyObject_Size(context) == 0:
            # Back again. It stays where that shows: something is in it, or somebody (a token, get_context()) has it.
            self.own_context, spare_context = None, self.own_context
        if self._cancelled and self.depth == 0:
            self.drop_arguments()
        return 1

    cdef int drop_arguments(self) except -1:
        self.count = 0
        self.arguments = self.first = self.second = None
        return 0

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
        finally:
            if self._cancelled and self.depth == 0:
                self.drop_arguments()
        return 1

    def _run(self):
        self.run()

    cdef int end(self) except -1:
        self._cancelled = True
        self.keep_repr()
        self._callback = None
        if self.depth == 0:  # else the callback that runs is using them
            self.drop_arguments()
        return 0

    def cancel(self, /):
        if not self._cancelled:
            self.end()

    cdef int keep_repr(self) except -1:
        """In debug mode keep the text, for "Executing <Handle ...> took 2.500 seconds"."""
        if self._loop is not None and self.debug[0]:
            self.notes = [self._source_traceback, repr(self)]
        return 0

    def cancelled(self, /):
        return self._cancelled

    @property
    def _args(self):
        if self._callback is None:  # cancelled
            return None
        if self.arguments is None:
            self.arguments = new_tuple(inline_arguments(self), self.count)
        return self.arguments

    @property
    def _context(self):
        return self.get_context()

    def get_context(self):
        if self.own_context is None:
            self.own_context = PyContext_New()
        return self.own_context

    @property
    def _source_traceback(self):
        return None if self.notes is None else self.notes[0]

    @_source_traceback.setter
    def _source_traceback(self, stack):
        self.notes = [stack, self._repr]

    @property
    def _repr(self):
        return None if self.notes is None else self.notes[1]

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

    def cancel(self, /):
        self.wait_ended()
        if not self._cancelled:
            self.end()

    def cancelled(self, /):
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

    def cancel(self, /):
        if not self._cancelled:
            if self.untracked:
                tracked_again(self, 1)  # the heap's, for a while
            if self.heap is not None:  # one that no loop has made
                self.heap.cancel(self)
            self.end()

    def when(self, /):
        return self._when

    @property
    def _when(self):
        if self.given_when is None:
            self.given_when = self.seconds
        return self.given_when

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


cdef inline int set_up(Handle handle, PyObject *callback, PyObject *const *args, Py_ssize_t count, object loop, const bint *debug,
                       PyObject *context) except -1:
    cdef PyObject *first = NULL
    cdef PyObject *second = NULL
    if count and count <= INLINE_ARGUMENTS:
        first = args[0]
        if count == 2:
            second = args[1]
    fill_handle(handle, callback, <PyObject *>loop, first, second)
    handle.untracked = MADE_UNTRACKED
    handle.timer_seq = 0
    handle._cancelled = False
    handle.depth = 0
    handle.debug = debug
    handle.count = count
    if count > INLINE_ARGUMENTS:
        handle.arguments = new_tuple(args, count)
    if context != NULL and context != <PyObject *>None:
        handle.own_context = <object>context
    elif not aio_context_is_empty():
        handle.own_context = PyContext_CopyCurrent()
    return 0


cdef inline object kept_or_new(PyObject *kept, type handle_type, Py_ssize_t fields):
    if kept == NULL:
        handle = handle_type.__new__(handle_type)
        forget_nones(fields)
    else:
        handle = <object>kept
        Py_DECREF(handle)
    return handle


cdef Handle new_handle(PyObject *callback, PyObject *const *args, Py_ssize_t count, object loop, const bint *debug,
                       PyObject *context):
    cdef Handle handle = <Handle>kept_or_new(aio_handles_take(<PyTypeObject *>Handle), Handle, HANDLE_FIELDS)
    set_up(handle, callback, args, count, loop, debug, context)
    return handle


cdef Handle new_threadsafe_handle(PyObject *callback, PyObject *const *args, Py_ssize_t count, object loop, const bint *debug,
                                  PyObject *context):
    """What call_soon_threadsafe returns on this Python."""
    cdef ThreadSafeHandle handle
    if asyncio_ThreadSafeHandle is None:
        return new_handle(callback, args, count, loop, debug, context)
    handle = <ThreadSafeHandle>kept_or_new(aio_threadsafe_handles_take(<PyTypeObject *>ThreadSafeHandle), ThreadSafeHandle,
                                           HANDLE_FIELDS + THREADSAFE_FIELDS)
    fill_threadsafe(handle)
    handle.running = False
    set_up(handle, callback, args, count, loop, debug, context)
    return handle


cdef TimerHandle new_timer_handle(object when, double seconds, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                                  object loop, const bint *debug, PyObject *context, TimerHeap heap):
    cdef TimerHandle handle = <TimerHandle>kept_or_new(aio_timer_handles_take(<PyTypeObject *>TimerHandle), TimerHandle,
                                                       HANDLE_FIELDS + TIMER_FIELDS)
    fill_timer(handle, <PyObject *>heap)
    handle.seconds = seconds
    set_up(handle, callback, args, count, loop, debug, context)
    if when is not None:
        handle.given_when = when
    return handle


MADE_UNTRACKED = aio_handles_install(<PyTypeObject *>Handle)
aio_threadsafe_handles_install(<PyTypeObject *>ThreadSafeHandle)
aio_timer_handles_install(<PyTypeObject *>TimerHandle)
