from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.engine cimport StreamEngine, StreamSink


cdef class ReadinessEngine(StreamEngine):
    cdef bint local
    cdef bint added
    cdef bint reading
    cdef bint readable
    cdef bint writing

    cdef int watch(self) except -1
    cdef int read(self, StreamSink sink, int revents) except -1


cdef ReadinessEngine new_readiness_engine(AioContext context, StreamSink sink, int fd, int family, int proto)
