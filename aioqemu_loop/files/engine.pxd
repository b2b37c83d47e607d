from aioqemu_loop.files.transfers cimport Transfers
from aioqemu_loop.loop.operation cimport Operation


cdef class Engine(Transfers):
    cdef int open_now(self, object path, int flags, object dir_fd) except -2
    cpdef bint close_now(self, int fd) except -1
