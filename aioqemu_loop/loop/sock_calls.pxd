from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.fdmon.base cimport Runnable


cdef class SockWaiter(Runnable):
    cdef AioContext context
    cdef object future
    cdef int fd
    cdef bint write
    cdef bint waiting
