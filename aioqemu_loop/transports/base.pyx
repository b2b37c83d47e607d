"""What every transport is: a protocol, a file, an engine that watches it, and the way from open to closed.

States: open -> closing (close() with output left) -> connection lost scheduled (_conn_lost > 0) -> closed (protocol and
file let go). The file is closed only after the engine is settled.

Compiled classes cannot inherit from asyncio.Transport (slots; a crash), so each has a `__class__` that answers with a
Python class which does: isinstance() is True.
"""

from cpython.object cimport PyObject, PyTypeObject
from libc.errno cimport ENOTSOCK
from posix.fcntl cimport F_GETFD, fcntl

import socket
import warnings
from asyncio import futures
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.handle cimport new_handle
from aioqemu_loop.system.libc cimport EBADF
from aioqemu_loop.transports.engine cimport Engine, Sink

cdef extern from "Python.h":
    int PyContext_Enter(object context)
    int PyContext_Exit(object context)
    void PyErr_Clear()
    object PyContext_CopyCurrent()
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from *:
    """
    #include "aioqemu_loop/system/made_by_us.h"
    AIO_MADE_BY_US(base_transport)
    AIO_MADE_BY_US(flow_controlled_transport)
    /* Cython makes an empty one with each object. Python makes it where an attribute is set, or it is asked for. */
    #define AIO_WITHOUT_DICT(object) Py_CLEAR((object)->__dict__)
    """
    void without_dict "AIO_WITHOUT_DICT" (BaseTransport transport)
    void base_transport_made_by_us(PyTypeObject *type)
    void flow_controlled_transport_made_by_us(PyTypeObject *type)

cdef object Socket = socket.socket
# Files whose fd was closed by somebody else, and is somebody else's now: their end must not close it again.
cdef list lost_files = []
# asyncio's default high-water mark; the low one is a quarter.
cdef Py_ssize_t DEFAULT_HIGH_WATER = 64 * 1024


cdef class BaseTransport(Sink):
    """Not for use by itself. `file` is the Python object that the fd belongs to."""

    def __cinit__(self):
        self.fd = -1
        without_dict(self)

    cdef int set_up(self, AioContext context, object loop, int fd, object file, object protocol, dict extra,
                    object given_context, object py_context=None) except -1:
        """`py_context`: in place of a copy of the current one."""
        self.context = context
        self._loop = loop
        self.fd = fd
        self.file = file
        self.extra = extra
        self.given_context = given_context
        if py_context is None:
            py_context = PyContext_CopyCurrent() if given_context is None else given_context
        self.py_context = py_context
        self.set_protocol(protocol)
        context.counters.opened += 1
        return 0

    def __del__(self):
        if self.fd >= 0:
            self.context.counters.ended += 1
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.release_fd()
            self.let_go()

    def __repr__(self):
        info = [self.__class__.__name__]
        if self.fd < 0:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.engine.fd}")
        if self._loop is not None and not self._loop.is_closed():
            info += self._repr_io()
        elif self.fd >= 0:
            info.append("open")
        return f"<{' '.join(info)}>"

    # -- protocol and extra information --

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    def get_extra_info(self, name, default=None):
        if self.extra is None:
            self.extra = {}
        if name not in self.extra and isinstance(name, str):
            self.lookup(name)
        return self.extra.get(name, default)

    cdef int lookup(self, str name) except -1:
        """Put what is found out only when somebody asks for it into `extra`."""
        return 0

    # -- the context in which the protocol is called: a copy of the one that was current when the transport was made, or
    # from 3.15 on one that the loop gives, in which connection_made() and connection_lost() are called too --

    cdef int call_soon(self, object callback, object argument) except -1:
        """loop.call_soon(callback, argument, context=given_context); without a call where that is LoopCore's own."""
        cdef const bint *debug = self.context.loop_debug
        cdef PyObject *only = <PyObject *>argument
        if debug == NULL or debug[0] or self.context.closed or self._loop is None:
            self._loop.call_soon(callback, argument, context=self.given_context)
        else:
            self.context.ready.push_new(new_handle(<PyObject *>callback, &only, 1, self._loop, debug,
                                                          <PyObject *>self.given_context))
        return 0

    cdef bint enter_context(self) except -1:
        """False where it is entered already: a nested poll inside one of this protocol's callbacks."""
        if PyContext_Enter(self.py_context) == 0:
            return True
        PyErr_Clear()
        return False

    cdef int leave_context(self, bint entered) except -1:
        if entered:
            PyContext_Exit(self.py_context)
        return 0

    cdef int start(self, object waiter) except -1:
        """Tell the protocol, then read, then wake up who waits for the transport."""
        self.call_soon(self.protocol.connection_made, self)
        self.context.ready.push(self)
        if waiter is not None:
            self._loop.call_soon(futures._set_result_unless_cancelled, waiter, None)
        return 0

    # -- reading --

    cdef int run(self) except -1:
        """Queued behind connection_made, which may have paused."""
        try:
            self.begin_reading()
        except OSError as exc:
            self.fatal_error(exc, "Fatal error: the file cannot be watched")
        return 1

    cdef int begin_reading(self) except -1:
        if self.is_reading():
            self.engine.read_on()
        return 0

    def is_reading(self):
        return not self.closing and not self.paused

    def pause_reading(self):
        if not self.is_reading():
            return
        self.paused = True
        self.engine.read_off()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self):
        if self.closing or not self.paused:
            return
        if self.context.closed:
            raise RuntimeError("Event loop is closed")
        self.paused = False
        self.engine.read_on()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    # -- closing --

    def is_closing(self, /):
        return self.closing

    def _force_close(self, exc):
        self.force_close(exc)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        self.fatal_error(exc, message)

    cdef int fatal_error(self, object exc, str message) except -1:
        """End with `exc`. Errors of the connection are nothing for the exception handler."""
        self.log_fatal(exc, message, isinstance(exc, OSError))
        if isinstance(exc, OSError) and self.fd >= 0 and (
            exc.errno == EBADF and fcntl(self.fd, F_GETFD) < 0 or exc.errno == ENOTSOCK
        ):
            # Closed by somebody else, not just opened for the other direction. The number is another file's by now, or may
            # be a new connection's before connection_lost() is called: closing it would be wrong.
            self.engine.detach()
            return self.fd_lost()
        return self.force_close(exc)

    cdef int log_fatal(self, object exc, str message, bint quietly) except -1:
        if not quietly:
            self._loop.call_exception_handler({
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self.protocol,
            })
        elif self._loop.get_debug():
            logger.debug("%r: %s", self, message, exc_info=True)
        return 0

    cdef int force_close(self, object exc) except -1:
        """End without sending what is left."""
        if self._conn_lost or self.fd < 0:
            return 0
        self.drop_output()
        self.closing = True
        return self.schedule_connection_lost(exc)

    cdef int drop_output(self) except -1:
        return 0

    cdef int schedule_connection_lost(self, object exc) except -1:
        self._conn_lost += 1
        self.engine.detach()
        return self.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc):
        self.context.counters.ended += 1
        try:
            self.protocol.connection_lost(exc)
        finally:
            try:
                self.release_fd()  # raises EBADF where somebody has closed it
            finally:
                self.protocol = None
                self._loop = None
                self.let_go()

    cdef int fd_lost(self) except -1:
        """Somebody closed the fd and it is another file now. End without touching it."""
        self.fd = -1
        if isinstance(self.file, Socket):
            self.file.detach()
        elif self.file is not None:
            lost_files.append(self.file)
        if not self._conn_lost:
            self.drop_output()
            self.closing = True
            self._conn_lost += 1
            self.call_soon(self._call_connection_lost, OSError(9, "the transport's fd was closed by somebody else"))
        return 0

    cdef int release_fd(self) except -1:
        cdef int fd = self.fd
        if fd < 0:
            return 0
        self.fd = -1
        try:
            self.context.settle(self.engine)
        finally:
            self.close_file(fd)
        return 0

    cdef int close_file(self, int fd) except -1:
        self.file.close()
        return 0

    cdef int let_go(self) except -1:
        """Everything is over: drop what else is held."""
        self.file = None
        return 0


cdef class FlowControlledTransport(BaseTransport):
    """One that buffers output: pause_writing() above the high-water mark, resume_writing() at the low one."""

    def __cinit__(self):
        self.high_water = DEFAULT_HIGH_WATER
        self.low_water = DEFAULT_HIGH_WATER // 4

    cdef Py_ssize_t buffered_size(self) noexcept:
        """Bytes that the file has not taken yet."""
        return 0

    cdef int flow_control(self) except -1:
        cdef bint pause
        if self.buffered_size() > self.high_water:
            if self._protocol_paused:
                return 0
            pause = True
        elif self._protocol_paused and self.buffered_size() <= self.low_water:
            pause = False
        else:
            return 0
        self._protocol_paused = pause
        return tell_flow(self.protocol, pause, self, self._loop)

    def set_write_buffer_limits(self, high=None, low=None):
        high, low = water_marks(high, low, DEFAULT_HIGH_WATER)
        self.high_water = high
        self.low_water = low
        if not self._conn_lost and self.buffered_size() > self.high_water:
            self.flow_control()

    def get_write_buffer_limits(self):
        return (self.low_water, self.high_water)


cdef int hold_socket(object sock) except -1:
    """As makefile() does: whoever gets at the socket object cannot close the fd under the transport."""
    sock._io_refs += 1
    return 0


cdef int let_go_of_socket(object sock) except -1:
    sock._decref_socketios()
    sock.close()
    return 0


cdef int tell_flow(object protocol, bint pause, object transport, object loop) except -1:
    """pause_writing() or resume_writing(). What they raise is for the exception handler."""
    try:
        if pause:
            protocol.pause_writing()
        else:
            protocol.resume_writing()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as exc:
        loop.call_exception_handler({
            "message": f"protocol.{'pause' if pause else 'resume'}_writing() failed",
            "exception": exc,
            "transport": transport,
            "protocol": protocol,
        })
    return 0


cdef tuple water_marks(object high, object low, Py_ssize_t default_high):
    """(high, low), whole numbers that fit, where one or both may be None, fractions or any size."""
    if high is None:
        high = default_high if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return int(min(high, PY_SSIZE_T_MAX)), int(min(low, PY_SSIZE_T_MAX))


base_transport_made_by_us(<PyTypeObject *>BaseTransport)
flow_controlled_transport_made_by_us(<PyTypeObject *>FlowControlledTransport)
