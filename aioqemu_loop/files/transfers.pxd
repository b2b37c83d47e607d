from libc.stdint cimport int64_t

from aioqemu_loop.files.iovecs cimport AlignedMemory, iovec
from aioqemu_loop.files.ways cimport Ways


cdef class Part(AlignedMemory):
    cdef iovec part
    cdef object owner
    cdef char *home

    cdef int copy_in(self) except -1
    cdef int copy_out(self, Py_ssize_t size) except -1


cdef class Transfers(Ways):
    cdef dict kinds
    cdef int large_writes  # that the ring is at

    cdef int kind_of(self, int fd) except -1
    cdef int place(self, int fd, int64_t position, int kind) except -1
    cdef int note(self, int fd, int kind) except -1
    cpdef object rest_now(self, int fd)
    cdef object read_now(self, int fd, Py_ssize_t size, int64_t offset, int kind)
