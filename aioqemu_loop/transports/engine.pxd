from libc.stdint cimport int64_t

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.sources cimport Flushable, OwnedHandler

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef class Sink(Flushable):
    cdef Py_ssize_t read_buffer(self, char **where) except -1
    cdef int received(self, Py_ssize_t result) except -1
    cdef int took(self, char *data, Py_ssize_t size, bytes owner) except -1
    cdef int writable(self) except -1
    cdef bint sent(self, Py_ssize_t result) except -1
    cdef int fd_lost(self) except -1


cdef class Engine(OwnedHandler):
    cdef AioContext context
    cdef Sink sink

    cdef int read_on(self) except -1
    cdef int read_off(self) except -1
    cdef int write_on(self) except -1
    cdef int write_off(self) except -1
    cdef Py_ssize_t send(self, iovec *chunks, int count) noexcept
    cdef bint send_later(self, object owner, void *data, Py_ssize_t size) except -1
    cdef int set_direct(self, bint direct) except -1
    cdef int detach(self) except -1
