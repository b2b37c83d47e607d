from libc.stdint cimport uint32_t

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.engine cimport Sink
from aioqemu_loop.transports.readiness cimport ReadinessEngine
from aioqemu_loop.uring.buffers cimport BufferRing


cdef class SocketEngine(ReadinessEngine):
    cdef BufferRing buffers
    cdef uint32_t first
    cdef uint32_t last
    cdef uint32_t count
    cdef list held
    cdef bint direct
    cdef int bulk_left
    cdef int end

    cdef int choose(self) except -1
    cdef bint pending(self) noexcept
    cdef int drop(self) except -1
    cdef int drop_first(self) except -1
    cdef int hold(self) except -1
    cdef bytes take_chunks(self)
    cdef int deliver(self, Sink sink) except -1


cdef int take_over(SocketEngine engine, SocketEngine old) except -1
cdef SocketEngine new_socket_engine(AioContext context, Sink sink, int fd, int family, int proto)
