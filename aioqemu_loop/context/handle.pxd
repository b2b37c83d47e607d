from cpython.object cimport PyObject

from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport Runnable


cdef class Handle(Runnable):
    cdef object __weakref__
    cdef readonly object _callback
    cdef readonly tuple _args
    cdef readonly object _context
    cdef readonly object _loop
    cdef public object _source_traceback
    cdef readonly object _repr
    cdef readonly bint _cancelled
    cdef int depth
    # The loop's debug mode: good as long as _loop is there.
    cdef const bint *debug

    cdef int report(self) except -1
    cdef int keep_repr(self) except -1


cdef class ThreadSafeHandle(Handle):
    cdef bint running
    cdef unsigned long thread
    cdef object ended

    cdef bint runs_elsewhere(self) noexcept
    cdef int wait_ended(self) except -1


cdef class TimerHandle(Handle):
    cdef readonly object _when
    cdef TimerHeap heap


# `debug`: part of the loop, which the handle keeps.
cdef Handle new_handle(object callback, tuple args, object loop, const bint *debug, object context)
cdef Handle new_threadsafe_handle(object callback, tuple args, object loop, const bint *debug, object context)
cdef TimerHandle new_timer_handle(object when, object callback, tuple args, object loop, const bint *debug, object context,
                                  TimerHeap heap)
