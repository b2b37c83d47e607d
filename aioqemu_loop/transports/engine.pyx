"""The seam between a transport's state machine (Sink) and what moves its bytes (Engine).

An engine is the registration of the transport's fd. Those of today are in `readiness`: the fd monitor says when, the
engine makes the system call. Another kind can submit operations and report their completion through the same calls.
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

    cdef int writable(self) except -1:
        """send() may take more."""
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
