from libc.stdint cimport int64_t, uint32_t, uint64_t

from aioqemu_loop.uring.abi cimport aio_cqe, aio_sqe


cdef class Ring:
    cdef object __weakref__
    cdef readonly int fd
    cdef readonly uint32_t features
    cdef readonly uint32_t setup_flags
    cdef readonly uint32_t sq_entries
    cdef readonly uint32_t cq_entries
    cdef uint32_t mark
    cdef void *ring_map
    cdef size_t ring_size
    cdef aio_sqe *sqes
    cdef size_t sqes_size
    cdef uint32_t *sq_head
    cdef uint32_t *sq_tail
    cdef uint32_t *sq_flags
    cdef uint32_t sq_mask
    cdef uint32_t prepared
    cdef uint32_t *cq_head
    cdef uint32_t *cq_tail
    cdef uint32_t cq_mask
    cdef aio_cqe *cqes
    cdef uint32_t *cq_flags
    cdef uint64_t enters

    cdef int setup(self, uint32_t entries, uint32_t flags) except? -1
    cdef int map_rings(self, void *params) except -1
    cdef int refused(self) noexcept
    cdef int enable(self) noexcept nogil
    cdef int register_eventfd(self, int fd) noexcept nogil
    cdef void quiet_eventfd(self, bint quiet) noexcept nogil
    cdef aio_sqe *get_sqe(self) noexcept nogil
    cdef uint32_t unsubmitted(self) noexcept nogil
    cdef bint has_submitted(self, uint32_t prepared) noexcept nogil
    cdef bint has_events(self) noexcept nogil
    cdef bint has_deferred(self) noexcept nogil
    cdef bint has_overflow(self) noexcept nogil
    cdef uint32_t cq_ready(self) noexcept nogil
    cdef aio_cqe pop_cqe(self) noexcept nogil
    cdef int enter(self, uint32_t min_complete, int64_t timeout_ns) noexcept nogil
    cdef int submit(self) noexcept nogil
    cpdef forget_after_fork(self)
    cpdef close(self)
    cdef void release(self) noexcept
