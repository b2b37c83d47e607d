from libc.stdint cimport int32_t, uint32_t, uint64_t

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable
from aioqemu_loop.uring.abi cimport aio_cqe
from aioqemu_loop.uring.ring cimport Ring


cdef class IOUringFDMon(FDMon):
    cdef readonly Ring ring
    cdef SlotTable slots
    cdef list submit_list
    cdef uint64_t owner
    cdef int owner_tid
    cdef bint closed
    cdef bint parked
    cdef bint one_shot_only
    cdef readonly bint overflowed

    cdef int mark_dirty(self, AioHandler handler) except -1
    cdef int own(self) except -1
    cdef int drop_ring(self) except -1
    cdef int check(self, int ret) except -1
    cdef int fill_sq(self, ReadyList ready_list) except -1
    cdef int reconcile(self, AioHandler handler, ReadyList ready_list) except -1
    cdef int make_room(self, ReadyList ready_list) except -1
    cdef int harvest(self, ReadyList ready_list) except -1
    cdef int complete(self, aio_cqe cqe, ReadyList ready_list) except -1
    cdef int enter_now(self, bint wait_one, ReadyList ready_list) except -1
