"""The seam between a transport's state machine (Sink) and what moves its bytes (Engine).

An engine is the registration of the transport's fd. Those in `readiness` are told by the fd monitor when, and make the
system call; `completion` has the one that lets a monitor receive and send by itself where it can.
"""

from aioqemu_loop.context.sources cimport Flushable, OwnedHandler


cdef class Sink(Flushable):
    """What an engine reports to."""

    cdef Py_ssize_t read_buffer(self, char **where) except -1:
        """Where the next bytes go; returns the room there, or 0: nothing can be taken. Followed by received()."""
        raise NotImplementedError

    cdef int received(self, Py_ssize_t result) except -1:
        """Bytes now in the buffer, 0 at the end of the stream, or -errno (-EAGAIN: nothing)."""
        raise NotImplementedError

    cdef int took(self, char *data, Py_ssize_t size, bytes owner) except -1:
        """Bytes that came without read_buffer(). They are good until this returns, or are those of `owner`."""
        raise NotImplementedError

    cdef int writable(self) except -1:
        """send() may take more."""
        raise NotImplementedError

    cdef bint sent(self, Py_ssize_t result) except -1:
        """The outcome of Engine.send_later(): bytes, or -errno. Calls nobody. True where there is more to do."""
        raise NotImplementedError

    cdef int fd_lost(self) except -1:
        """The fd was closed behind the transport's back and is somebody else's now: never touch it again."""
        raise NotImplementedError


cdef class Engine(OwnedHandler):
    """Moves the bytes of one file. The sink is None after detach()."""

    cdef int read_on(self) except -1:
        """Start or go on to read. Nothing that came meanwhile is lost."""
        raise NotImplementedError

    cdef int read_off(self) except -1:
        raise NotImplementedError

    cdef int write_on(self) except -1:
        """Call sink.writable() when send() may take more."""
        raise NotImplementedError

    cdef int write_off(self) except -1:
        raise NotImplementedError

    cdef Py_ssize_t send(self, iovec *chunks, int count) noexcept:
        """Bytes taken, or -errno."""
        return -1

    cdef bint send_later(self, object owner, void *data, Py_ssize_t size) except -1:
        """As send(), but together with others when the loop next looks; False where it must be done now. Sink.sent()
        follows, and nothing may be sent before that; AioContext.submit() brings it about. `owner` keeps `data` alive."""
        return False

    cdef int set_direct(self, bint direct) except -1:
        """Whether what comes must go where read_buffer() says."""
        return 0

    cdef int detach(self) except -1:
        """Stop for good. The fd may be closed after AioContext.settle(engine)."""
        raise NotImplementedError

    cdef object owner(self):
        return self.sink

    cdef int fd_lost(self) except -1:
        cdef Sink sink = self.sink
        self.sink = None
        if sink is not None:
            sink.fd_lost()
        return 0
