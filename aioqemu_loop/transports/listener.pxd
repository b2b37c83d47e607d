from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.sources cimport OwnedHandler
from aioqemu_loop.system.sockaddr cimport sockaddr_storage, socklen_t


cdef class Listener(OwnedHandler):
    cdef AioContext context
    cdef object loop
    cdef object sock
    cdef object protocol_factory
    cdef object make_tls
    cdef object server
    cdef object py_context
    cdef object hand_over
    cdef bint shares_context
    cdef int family
    cdef int kind
    cdef int proto
    cdef int backlog
    cdef bint closed

    cdef int accepted(self, int fd, sockaddr_storage *address, socklen_t size, object own) except -1
    cdef int accept_failed(self, int err) except -1
