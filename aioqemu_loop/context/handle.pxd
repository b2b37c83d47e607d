from cpython.object cimport PyObject

from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport Runnable


cdef enum:
    INLINE_ARGUMENTS = 2


cdef class Handle(Runnable):
    cdef object __weakref__
    cdef readonly object _callback
    cdef readonly object _loop
    # None: an empty one, which there is while the handle runs. Most programs have nothing in their contexts, and making and
    # freeing one takes as long as all else that call_soon does.
    cdef object own_context
    # Of debug mode: [source traceback, repr]. None: neither is known.
    cdef list notes
    cdef readonly bint _cancelled
    cdef int depth
    # The loop's debug mode: good as long as _loop is there.
    cdef const bint *debug
    # So many arguments; more than INLINE_ARGUMENTS are in a tuple, which is also made when somebody asks for `_args`.
    cdef Py_ssize_t count
    cdef tuple arguments
    # In this order: see inline_arguments(). The called function may use `before` (PY_VECTORCALL_ARGUMENTS_OFFSET).
    cdef void *before
    cdef object first
    cdef object second

    cdef int report(self) except -1
    cdef int end(self) except -1
    cdef int drop_arguments(self) except -1
    cdef int keep_repr(self) except -1


cdef class ThreadSafeHandle(Handle):
    cdef bint running
    cdef unsigned long thread
    cdef object ended

    cdef bint runs_elsewhere(self) noexcept
    cdef int wait_ended(self) except -1


cdef class TimerHandle(Handle):
    # None: a float of `seconds`, made when somebody asks.
    cdef object given_when
    cdef double seconds
    cdef TimerHeap heap


# All of them are made untracked: ReadyQueue.push_new(), TimerHeap.add_new() or keep_tracked() come next.
# `args`: `count` of them; `debug`: part of the loop, which the handle keeps; `context` None or NULL: a copy of the current one.
cdef Handle new_handle(PyObject *callback, PyObject *const *args, Py_ssize_t count, object loop, const bint *debug,
                       PyObject *context)
cdef Handle new_threadsafe_handle(PyObject *callback, PyObject *const *args, Py_ssize_t count, object loop, const bint *debug,
                                  PyObject *context)
# `when` None: `seconds`, a time of the loop's clock.
cdef TimerHandle new_timer_handle(object when, double seconds, PyObject *callback, PyObject *const *args, Py_ssize_t count,
                                  object loop, const bint *debug, PyObject *context, TimerHeap heap)
