from libc.stdint cimport uint16_t, uint32_t

from aioqemu_loop.uring.abi cimport aio_buf
from aioqemu_loop.uring.ring cimport Ring

cdef enum:
    BUFFER_GROUP = 0
    BUFFERS = 256  # a power of two


cdef class BufferRing:
    cdef uint32_t mark
    cdef aio_buf *entries
    cdef char *memory
    cdef uint16_t tail
    # For whoever holds buffers: how much is in each, and which comes next.
    cdef int sizes[BUFFERS]
    cdef uint16_t following[BUFFERS]

    cdef int register(self, Ring ring) noexcept
    cdef char *at(self, uint32_t index) noexcept
    cdef int give(self, uint32_t index) except -1
