from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.stream cimport Layer, StreamTransport
from aioqemu_loop.transports.tls_pipe cimport TLSPipe
from aioqemu_loop.transports.write_queue cimport WriteQueue

cdef enum State:
    WAITING
    HANDSHAKE
    OPEN
    FLUSHING
    SHUTDOWN
    LEAVING
    OVER


cdef class TLSWriting(Layer):
    cdef object __weakref__
    cdef dict __dict__
    cdef AioContext context
    cdef readonly object _loop
    cdef object protocol
    cdef object below
    cdef StreamTransport stream
    cdef TLSPipe pipe
    cdef WriteQueue queue
    cdef State state
    cdef bint below_paused
    cdef readonly bint _protocol_paused
    cdef int lost_writes
    cdef Py_ssize_t write_high
    cdef Py_ssize_t write_low

    cdef bint lost_write(self) except -1
    cdef bint broken(self) noexcept
    cdef bint may_gather(self) noexcept
    cdef int pump(self) except -1
    cdef int send_outgoing(self) except -1
    cdef int flow_control(self) except -1
    cdef int fatal_error(self, object exc, str message) except -1
