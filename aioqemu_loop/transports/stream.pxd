from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.sources cimport Flushable
from aioqemu_loop.transports.writing cimport WritingTransport


cdef class Layer(Flushable):
    cdef int bytes_received(self, char *data, Py_ssize_t size) except -1


cdef class StreamTransport(WritingTransport):
    cdef Layer layer
    cdef object server
    # The addresses as the kernel gave them: nobody may ever ask.
    cdef bytes raw_peer
    cdef bytes raw_own
    cdef object empty_waiter
    cdef object room_waiter
    cdef int family
    cdef int kind
    cdef int proto
    cdef bint buffered
    cdef bint plain_reader
    cdef bint view_held
    cdef bint eof_sent
    cdef bint eof_done
    cdef Py_buffer view
    cdef Py_ssize_t last_read
    cdef PyObject *filling

    cdef bytes take_filled(self, Py_ssize_t result)
    cdef int deliver(self, Py_ssize_t result) except -1
    cdef int hand_over(self, char *data, Py_ssize_t size, bytes owner) except -1
    cdef int on_eof(self) except -1
    cdef object get_socket(self)
    cdef bint is_elsewhere(self, object method) except -1
    cdef int release_view(self) except -1
    cdef int wake_sendfile(self, object exc) except -1
    cdef int end_sendfile(self) except -1
    cdef int send_bytes(self, bytes data) except -1


cdef StreamTransport new_stream_transport(AioContext context, object loop, int fd, object sock, int family, int kind,
                                          int proto, object protocol, object waiter, dict extra, object server,
                                          object given_context, object own_context=*)
