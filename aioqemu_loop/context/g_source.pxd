from libc.stdint cimport int64_t

from aioqemu_loop.context.core cimport ContextCore
from aioqemu_loop.fdmon.base cimport FDMon


cdef class GSource:
    cdef ContextCore context
    cdef FDMon seen
    cdef unsigned long long seen_changes
    cdef list fds
    cdef bint doomed
    cdef int dispatching
    cdef readonly bint stopped

    cdef int64_t prepare_ns(self) except? -2
    cpdef list poll_fds(self)
    cpdef bint check(self, list ready) except *
    cpdef dispatch(self)
    cdef bint run(self) except *
    cdef int check_held(self) except -1
    cdef int wake(self) except -1
