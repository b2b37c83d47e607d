from aioqemu_loop.files.transfers cimport Transfers
from aioqemu_loop.loop.operation cimport Operation


cdef class Engine(Transfers):
    cdef int try_open(self, object path, int flags, object dir_fd, int wanted) except -2
    cpdef bint close_now(self, int fd) except -1
