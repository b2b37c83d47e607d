"""Read and write ends of pipes, and of FIFOs, sockets and terminals that are handed over as pipes.

The pipe is a Python file object; it is the transport's from then on and is closed with it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EIO

import fcntl
import os
import stat
from asyncio import constants, transports
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.core cimport SCRATCH_SIZE
from aioqemu_loop.system.errors cimport os_error
from aioqemu_loop.system.sockaddr cimport socklen_t
from aioqemu_loop.transports.base cimport BaseTransport
from aioqemu_loop.transports.readiness cimport PipeEngine, new_pipe_engine
from aioqemu_loop.transports.writing cimport WritingTransport

cdef extern from "<sys/socket.h>" nogil:
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    enum:
        SOCK_STREAM
        SOL_SOCKET
        SO_TYPE

cdef int LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


class UnixReadPipeTransport(transports.ReadTransport):
    """What `transport.__class__` answers (see `base`)."""


class UnixWritePipeTransport(transports._FlowControlMixin, transports.WriteTransport):
    """What `transport.__class__` answers (see `base`)."""


cdef int pipe_fd(object pipe, str refusal) except -1:
    """The fd of a pipe, socket or character device, made non-blocking. Raises ValueError(refusal) for other files."""
    cdef int fd = pipe.fileno()
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
        raise ValueError(refusal)
    os.set_blocking(fd, False)
    return fd


cdef bint keeps_messages(int fd) except -1:
    """Whether what was written together is read together: a pipe in packet mode, a socket that is no stream."""
    cdef int kind = SOCK_STREAM
    cdef socklen_t size = sizeof(kind)
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0:
        return kind != SOCK_STREAM
    return stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT != 0


cdef bint is_device(int fd) except -1:
    """Not every character device can be polled, and none has another end that could be closed."""
    return stat.S_ISCHR(os.fstat(fd).st_mode)


cdef class ReadPipeTransport(BaseTransport):
    """asyncio.ReadTransport. Made by loop.connect_read_pipe."""

    def __cinit__(self, AioContext context not None, loop, pipe, protocol, waiter, extra):
        cdef int fd = pipe_fd(pipe, "Pipe transport is for pipes/sockets only.")
        self.engine = new_pipe_engine(context, self, fd)
        self.engine.known_pollable = not is_device(fd)
        self.set_up(context, loop, fd, pipe, protocol, {**(extra or {}), "pipe": pipe}, None)
        self.start(waiter)

    @property
    def __class__(self):
        return UnixReadPipeTransport

    def _repr_io(self):
        return ["polling" if self.is_reading() else "idle"]

    cdef Py_ssize_t read_buffer(self, char **where) except -1:
        if self._conn_lost:
            return 0
        where[0] = self.context.read_scratch()
        return SCRATCH_SIZE

    cdef int received(self, Py_ssize_t result) except -1:
        cdef bint entered
        if result == -EAGAIN:
            return 0
        entered = self.enter_context()
        try:
            if result < 0:
                self.fatal_error(os_error(<int>-result), "Fatal read error on pipe transport")
            elif result == 0:
                self.on_eof()
            else:
                self.protocol.data_received(PyBytes_FromStringAndSize(self.context.scratch, result))
        finally:
            self.leave_context(entered)
        return 0

    cdef int on_eof(self) except -1:
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self.closing = True
        self._loop.call_soon(self.protocol.eof_received)
        return self.schedule_connection_lost(None)

    cdef int fatal_error(self, object exc, str message) except -1:
        # The end of a pseudo-terminal is told by EIO.
        self.log_fatal(exc, message, isinstance(exc, OSError) and exc.errno == EIO)
        return self.force_close(exc)

    def close(self):
        if not self.closing:
            self.force_close(None)


cdef class WritePipeTransport(WritingTransport):
    """asyncio.WriteTransport. Made by loop.connect_write_pipe."""

    def __cinit__(self, AioContext context not None, loop, pipe, protocol, waiter, extra):
        cdef int fd = pipe_fd(pipe, "Pipe transport is only for pipes, sockets and character devices")
        cdef PipeEngine engine = new_pipe_engine(context, self, fd)
        self.what = "pipe transport"
        engine.shared = is_device(fd)
        engine.known_pollable = not engine.shared
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            engine.watch_end_only()
        self.keeps_messages = keeps_messages(fd)
        self.engine = engine
        self.set_up(context, loop, fd, pipe, protocol, {**(extra or {}), "pipe": pipe}, None)
        self.start(waiter)

    @property
    def __class__(self):
        return UnixWritePipeTransport

    cdef int begin_reading(self) except -1:
        """What there is to read is that the other end was closed."""
        if not self._conn_lost and not is_device(self.fd):
            self.engine.read_on()
        return 0

    cdef Py_ssize_t read_buffer(self, char **where) except -1:
        """The other end was closed, or, where this is a socket, sent something."""
        if self._conn_lost:
            return 0
        if self._loop.get_debug():
            logger.info("%r was closed by peer", self)
        self.force_close(BrokenPipeError() if self.queue.size else None)
        return 0

    cdef int fatal_error(self, object exc, str message) except -1:
        self.dropped += 1  # as asyncio counts
        return WritingTransport.fatal_error(self, exc, message)

    cdef bint may_write(self) except -1:
        """False once it is closed: what is written then is dropped, with a warning from the fifth time."""
        if self._conn_lost or self.closing:
            if self.dropped >= LOG_THRESHOLD:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self.dropped += 1
            return False
        return True

    def can_write_eof(self):
        return True

    def write_eof(self):
        """The same as close(): a pipe has one direction only."""
        if self.closing:
            return
        self.flush_now()
        if self._conn_lost:
            return
        self.closing = True
        if not self.queue.size:
            self.schedule_connection_lost(None)

    def close(self):
        self.write_eof()

    cdef int close_file(self, int fd) except -1:
        (<PipeEngine>self.engine).close_duplicate()
        return WritingTransport.close_file(self, fd)
