from libc.stdint cimport int64_t, uint64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.fdmon.base cimport FDMon, ReadyList


cdef class PollMode:
    cdef int64_t max_ns
    cdef int64_t grow
    cdef int64_t shrink
    # How long the next spin may last.
    cdef int64_t ns
    cdef int probe_after
    cdef int probe_in
    cdef int credit
    cdef int64_t rest_until_ns
    cdef int64_t rest_ns
    cdef uint64_t spins
    cdef uint64_t hits
    cdef uint64_t spent_ns

    cdef int set_params(self, int64_t max_ns, int64_t grow, int64_t shrink) except -1
    cdef int64_t spin(self, FDMon monitor, Wakeup wakeup, ReadyList ready_list, int64_t timeout_ns) except? -2
    cdef int rest(self, int64_t now, int64_t lost) except -1
    cdef int adapt(self, int64_t block_ns) except -1
