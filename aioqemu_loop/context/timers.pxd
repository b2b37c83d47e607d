from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.fdmon.base cimport Runnable


cdef struct TimerEntry:
    int64_t when_ns
    uint64_t seq


cdef class TimerHeap:
    cdef TimerEntry *heap
    cdef list store
    cdef PyObject **items
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef Py_ssize_t dead
    cdef uint64_t last_seq
    # As in ReadyQueue; has_untracked: there may be some that the collector does not know.
    cdef bint running
    cdef bint has_untracked

    cdef int add(self, Runnable item, int64_t when_ns) except -1
    cdef int add_new(self, Runnable item, int64_t when_ns) except -1
    cdef int track_all(self) except -1
    cdef int cancel(self, Runnable item) except -1
    cdef bint pending(self) except -1
    cdef int move_due(self, int64_t now_ns, ReadyQueue ready) except -1
    cdef int clear(self) except -1
    cdef void sift_up(self, Py_ssize_t i) noexcept
    cdef void sift_down(self, Py_ssize_t i) noexcept
    cdef int drop_first(self) except -1
    cdef int compact(self) except -1
    cdef int grow(self) except -1
    cdef bint alive(self, Py_ssize_t i) noexcept
