from aioqemu_loop.transports.write_queue cimport WriteQueue

cdef enum:
    # Text in one TLS record.
    RECORD_SIZE = 16 * 1024


cdef class Window:
    cdef char *data
    cdef Py_ssize_t size
    cdef bint readonly


cdef struct Framing:
    unsigned char header[5]
    int have
    Py_ssize_t left
    Py_ssize_t tail
    bint open


cdef class TLSPipe:
    cdef readonly object ssl_object
    cdef object incoming
    cdef object outgoing
    cdef object ssl_read
    cdef object ssl_write
    cdef object write_incoming
    cdef object read_outgoing
    cdef Window window
    cdef Framing framing
    cdef bint inside
    cdef bint foreign

    cdef int handshake_done(self) except -1
    cdef int feed(self, const char *data, Py_ssize_t size) except -1
    cdef bint has_text(self) except -1
    cdef Py_ssize_t decrypt(self, char *where, Py_ssize_t room) except -2
    cdef Py_ssize_t encrypt(self, WriteQueue queue, Py_ssize_t most, char *scratch) except -2
    cdef bytes take_outgoing(self)
    cdef int let_go(self) except -1
