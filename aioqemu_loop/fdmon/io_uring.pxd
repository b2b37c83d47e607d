from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable
from aioqemu_loop.fdmon.operations cimport Operations
from aioqemu_loop.uring.abi cimport aio_cqe
from aioqemu_loop.uring.buffers cimport BufferRing
from aioqemu_loop.uring.ring cimport Ring

cdef enum:
    MAX_SENDS = 64


cdef struct Send:
    uint32_t prepared  # the ring's count when its entry was ready
    int32_t result


cdef class IOUringFDMon(FDMon):
    cdef readonly Ring ring
    cdef SlotTable slots
    cdef Operations operations
    cdef list submit_list
    cdef list unarmed
    cdef int64_t arm_again_ns
    cdef Py_ssize_t tidy_at
    cdef uint64_t owner
    cdef int owner_tid
    cdef BufferRing buffers
    cdef bint no_receive
    cdef Send sends[MAX_SENDS]
    cdef int send_first
    cdef int send_count
    cdef list senders
    cdef list payloads
    cdef uint64_t told
    cdef bint closed
    cdef bint parked
    cdef bint one_shot_only
    # Tokens of the polls that were under way when the first multishot poll was refused.
    cdef set early_polls
    cdef readonly bint overflowed
    cdef dict outside
    cdef dict half_closed
    cdef list gone
    cdef int event_fd
    cdef Ring event_ring

    cdef int mark_dirty(self, AioHandler handler) except -1
    cdef int tidy(self) except -1
    cdef int own(self) except -1
    cdef bint is_owner(self) noexcept
    cdef int drop_ring(self) except -1
    cdef int64_t arm_again(self, int64_t timeout_ns) except? -2
    cdef int check(self, int ret) except -1
    cdef int fill_sq(self, ReadyList ready_list) except -1
    cdef int fill_operations(self, ReadyList ready_list) except -1
    cdef int reconcile(self, AioHandler handler, ReadyList ready_list) except -1
    cdef int make_room(self, ReadyList ready_list) except -1
    cdef int harvest(self, ReadyList ready_list) except -1
    cdef int complete(self, aio_cqe cqe, ReadyList ready_list) except -1
    cdef bint was_multishot(self, AioHandler handler, uint64_t token) except -1
    cdef int cancel(self, AioHandler handler, ReadyList ready_list) except -1
    cdef int arm(self, AioHandler handler, bint receiving, ReadyList ready_list) except -1
    cdef bint can_receive(self) except -1
    cdef int received(self, AioHandler handler, aio_cqe cqe) except -1
    cdef int finish_sends(self) except -1
    cdef int enter_now(self, bint wait_one, ReadyList ready_list) except -1
