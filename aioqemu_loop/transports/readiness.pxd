from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.engine cimport Engine, Sink


cdef class ReadinessEngine(Engine):
    cdef bint local
    cdef bint added
    cdef bint reading
    cdef bint readable
    cdef bint writing
    cdef int read_events

    cdef int watch(self) except -1
    cdef int read(self, Sink sink, int revents) except -1
    cdef Py_ssize_t receive(self, char *where, Py_ssize_t size, bint *more) noexcept
    cdef int read_again(self, int revents) except -1


cdef class PipeEngine(ReadinessEngine):
    cdef bint shared
    cdef int duplicate_of

    cdef int close_duplicate(self) except -1
    cdef int watch_end_only(self) except -1


cdef int set_up(ReadinessEngine engine, AioContext context, Sink sink, int fd, bint edge) except -1
cdef bint is_tcp(int family, int proto) noexcept
cdef PipeEngine new_pipe_engine(AioContext context, Sink sink, int fd)
