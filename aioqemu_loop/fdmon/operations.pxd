from libc.stdint cimport uint64_t

from aioqemu_loop.fdmon.base cimport CqeHandler, SlotTable
from aioqemu_loop.uring.abi cimport aio_cqe
from aioqemu_loop.uring.ring cimport Ring

cdef enum:
    # Marks user_data of these operations; no token of a SlotTable has it.
    OPERATION_BIT = 1ull << 62


cdef class Operations:
    cdef SlotTable slots
    cdef list waiting
    cdef Py_ssize_t next_waiting
    cdef list cancels

    cdef int add(self, CqeHandler handler) except -1
    cdef int cancel(self, CqeHandler handler) except -1
    cdef int interrupt(self) except -1
    cdef bint has_work(self) noexcept
    cdef bint has_cancels(self) noexcept
    cdef bint has_waiting(self) noexcept
    cdef bint are_many(self) noexcept
    cdef int submit(self, Ring ring) except -1
    cdef bint prepare(self, Ring ring) except -1
    cdef int prepare_cancel(self, Ring ring) except -1
    cdef int complete(self, aio_cqe cqe) except -1
    cdef int lose(self) except -1
    cdef int forget(self) except -1
    cdef list take(self)


cdef int prepare_cancel(Ring ring, uint64_t user_data) except -1
