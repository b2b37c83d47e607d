"""What a context counts. Additions of a few ns each, so they are always on."""

from libc.stdint cimport int64_t, uint64_t

cdef enum:
    # busy[0]: shorter than 2 us; busy[i]: from 2**i up to 2**(i + 1) us; busy[LAST_BUCKET]: from 8.4 s.
    BUSY_BUCKETS = 24


cdef struct Counters:
    uint64_t turns
    uint64_t looks
    uint64_t sleeps
    int64_t waited_ns
    int64_t busy_max_ns
    uint64_t busy[BUSY_BUCKETS]
    # System calls of monitors that are not in use any more.
    uint64_t old_calls
    uint64_t receives
    uint64_t sends
    uint64_t accepts
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t opened
    uint64_t ended


cdef inline void count_busy(Counters *counters, int64_t ns) noexcept:
    """The context did not look for so long."""
    cdef uint64_t rest = <uint64_t>ns >> 11  # 2.048 us
    cdef int bucket = 0
    if ns > counters.busy_max_ns:
        counters.busy_max_ns = ns
    while rest and bucket < BUSY_BUCKETS - 1:
        rest >>= 1
        bucket += 1
    counters.busy[bucket] += 1


cdef inline void count_received(Counters *counters, Py_ssize_t size) noexcept:
    """One system call of a transport or a sock_* method; `size`: bytes, or negative."""
    counters.receives += 1
    if size > 0:
        counters.bytes_received += size


cdef inline void count_sent(Counters *counters, Py_ssize_t size) noexcept:
    counters.sends += 1
    if size > 0:
        counters.bytes_sent += size
