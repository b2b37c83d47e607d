from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.sources cimport OwnedHandler


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

    cdef int accept_failed(self, int err) except -1
