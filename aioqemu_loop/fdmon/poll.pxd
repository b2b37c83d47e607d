from libc.stdint cimport uint64_t

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable
from aioqemu_loop.system.libc cimport pollfd


cdef struct PollSet:
    pollfd *fds
    uint64_t *tokens
    Py_ssize_t capacity


cdef class PollFDMon(FDMon):
    cdef SlotTable slots
    cdef dict positions
    cdef PollSet watched
    cdef Py_ssize_t count
    cdef PollSet scratch
    cdef Py_ssize_t scratch_count
    cdef int checked

    cdef int append(self, AioHandler handler) except -1
    cdef int drop(self, AioHandler handler) except -1
    cdef int prepare_scratch(self) except -1
    cdef int collect_scratch(self, int found, ReadyList ready_list) except -1
