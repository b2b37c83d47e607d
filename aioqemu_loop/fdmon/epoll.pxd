from libc.stdint cimport uint32_t

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable
from aioqemu_loop.system.libc cimport epoll_event

cdef enum:
    # Events taken per system call. More stay in the kernel's list and come with the next turn.
    EVENTS_MAX = 256


cdef class EpollFDMon(FDMon):
    cdef SlotTable slots
    cdef int epfd
    cdef uint32_t mark
    cdef bint no_pwait2
    cdef bint stale
    cdef int fetched
    cdef epoll_event events[EVENTS_MAX]

    cdef int control(self, int op, AioHandler handler) noexcept
    cdef int fetch(self, long long timeout_ns) noexcept nogil
    cdef int rebuild(self) except -1
