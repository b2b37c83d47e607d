from cpython.buffer cimport Py_buffer

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.engine cimport StreamEngine, StreamSink
from aioqemu_loop.transports.write_queue cimport WriteQueue


cdef class StreamTransport(StreamSink):
    cdef object __weakref__
    cdef dict __dict__
    cdef AioContext context
    cdef StreamEngine engine
    cdef WriteQueue queue
    cdef readonly object _loop
    cdef object protocol
    cdef object server
    cdef object sock
    cdef object py_context
    cdef dict extra
    cdef int fd
    cdef int family
    cdef int kind
    cdef int proto
    cdef bint buffered
    cdef bint view_held
    cdef bint paused
    cdef bint closing
    cdef bint eof_sent
    cdef bint eof_done
    cdef bint blocked
    cdef readonly bint _protocol_paused
    cdef readonly int _conn_lost
    cdef Py_ssize_t high_water
    cdef Py_ssize_t low_water
    cdef Py_buffer view

    cdef int deliver(self, Py_ssize_t result) except -1
    cdef int on_eof(self) except -1
    cdef bint may_write(self) except -1
    cdef int queue_bytes(self, object data) except -1
    cdef int send_queued(self) except -1
    cdef int all_sent(self) except -1
    cdef int flow_control(self) except -1
    cdef int fatal_error(self, object exc, str message) except -1
    cdef int force_close(self, object exc) except -1
    cdef int schedule_connection_lost(self, object exc) except -1
    cdef object get_socket(self)
    cdef int release_fd(self) except -1
    cdef int release_view(self) except -1


cdef StreamTransport new_stream_transport(AioContext context, object loop, int fd, object sock, int family, int kind,
                                          int proto, object protocol, object waiter, dict extra, object server)
