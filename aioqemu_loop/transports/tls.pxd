from aioqemu_loop.transports.tls_writing cimport TLSWriting

cdef enum Told:
    NOTHING
    MADE
    EOF_RECEIVED
    LOST


cdef class TLSTransport(TLSWriting):
    cdef object waiter
    cdef dict extra
    cdef Told told
    cdef bint buffered
    cdef bint plain_reader
    cdef bint closed
    cdef bint closed_twice
    cdef bint eof
    cdef bint reading_paused
    cdef bint below_reading_paused
    cdef Py_ssize_t read_high
    cdef Py_ssize_t read_low
    cdef object handshake_timeout
    cdef object shutdown_timeout
    cdef object timer
    cdef object handshake_started

    cdef int advance(self) except -1
    cdef int do_handshake(self) except -1
    cdef int handshake_failed(self, object exc) except -1
    cdef int handshake_done(self) except -1
    cdef int wake(self, object exc) except -1
    cdef int set_timer(self, object seconds, object callback) except -1
    cdef int cancel_timer(self) except -1
    cdef int read(self, char *data, Py_ssize_t size) except -1
    cdef bint may_read(self) noexcept
    cdef bint read_copied(self, char *data, Py_ssize_t size) except -1
    cdef Py_ssize_t decrypt_all(self, char *data, Py_ssize_t size, char *text, Py_ssize_t *got) except -1
    cdef bint read_buffered(self) except -1
    cdef int discard(self) except -1
    cdef int on_close_notify(self) except -1
    cdef int call_eof_received(self) except -1
    cdef int control_reading(self) except -1
    cdef int let_go(self) except -1
    cdef int start_shutdown(self) except -1
    cdef int do_flush(self) except -1
    cdef int do_shutdown(self) except -1
    cdef int shutdown_done(self, object exc) except -1
    cdef int force_close(self, object exc) except -1
