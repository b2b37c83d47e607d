"""The stream transport: one state machine for TCP and Unix stream sockets, over an engine that moves the bytes.

Reading: the engine fills a buffer of ours (the context's scratch buffer, or the BufferedProtocol's own) and says how
much. Writing: what one callback writes is gathered and sent when that callback returns, or at once when it is much,
when somebody asks how much is left, or when no callback of the loop is running. So headers and body written one after
the other leave in one system call, and the peer does not wait for the rest of the turn.

States: open -> closing (close() with data left: still writes) -> connection lost scheduled (_conn_lost > 0) ->
closed (protocol and socket let go). The fd is closed only after the engine is settled.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno
from posix.unistd cimport close as close_fd

import inspect
import os
import socket
import warnings
from asyncio import base_events, constants, futures, protocols, transports, trsock
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.core cimport SCRATCH_SIZE
from aioqemu_loop.system.libc cimport EAGAIN, EINTR
from aioqemu_loop.system.sockaddr cimport sockname_of
from aioqemu_loop.transports.engine cimport StreamEngine, StreamSink, iovec
from aioqemu_loop.transports.readiness cimport new_readiness_engine
from aioqemu_loop.transports.write_queue cimport WriteQueue

cdef extern from "Python.h":
    int PyContext_Enter(object context)
    int PyContext_Exit(object context)
    void PyErr_Clear()
    object PyContext_CopyCurrent()

cdef extern from "<sys/socket.h>" nogil:
    int c_shutdown "shutdown"(int fd, int how)
    enum: SHUT_WR

cdef object BufferedProtocol = protocols.BufferedProtocol
cdef object Socket = socket.socket
# This much, or more than the high-water mark, is sent before the callback that writes it returns, so pause_writing()
# comes inside write() as in asyncio. Also asyncio's default high-water mark.
cdef Py_ssize_t GATHER_MAX = 64 * 1024
# sendmsg takes this many chunks at a time.
cdef Py_ssize_t IOV_MAX = os.sysconf("SC_IOV_MAX")
cdef bint ATTACH_TAKES_TRANSPORT = "transport" in inspect.signature(base_events.Server._attach).parameters
cdef int LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


class SocketTransport(transports._FlowControlMixin, transports.Transport):
    """What `transport.__class__` answers: makes isinstance(transport, asyncio.Transport) True (see StreamTransport)."""


cdef class StreamTransport(StreamSink):
    """asyncio.Transport for a connected stream socket. Made by the loop's create_connection, create_server, ..."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def __class__(self):
        return SocketTransport

    def __del__(self):
        if self.fd >= 0:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.release_fd()
            self.detach_server()

    def __repr__(self):
        info = [SocketTransport.__name__]
        if self.fd < 0:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.engine.fd}")
        if self._loop is not None and not self._loop.is_closed():
            info.append(f"read={'polling' if self.is_reading() else 'idle'}")
            info.append(f"write=<{'polling' if self.blocked else 'idle'}, bufsize={self.queue.size}>")
        return f"<{' '.join(info)}>"

    # -- protocol and extra information --

    def set_protocol(self, protocol):
        self.protocol = protocol
        self.buffered = isinstance(protocol, BufferedProtocol)

    def get_protocol(self):
        return self.protocol

    def get_extra_info(self, name, default=None):
        if name in self.extra:
            return self.extra[name]
        if name == "sockname":
            self.extra[name] = sockname_of(self.fd)
        elif name == "socket":
            self.extra[name] = trsock.TransportSocket(self.get_socket())
        else:
            return default
        return self.extra[name]

    cdef object get_socket(self):
        if self.sock is None:
            if self.fd < 0:  # asked for only now: a closed one, as the one it had would be
                self.sock = Socket(self.family, self.kind, self.proto)
                self.sock.close()
                return self.sock
            self.sock = Socket(self.family, self.kind, self.proto, self.fd)
            # As makefile() does: whoever gets at the socket object cannot close the fd under the transport.
            self.sock._io_refs += 1
        return self.sock

    # -- reading --

    def _begin_reading(self, waiter):
        """Queued behind connection_made."""
        if self.is_reading():
            self.engine.read_on()
        if waiter is not None:
            futures._set_result_unless_cancelled(waiter, None)

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
        self.paused = False
        self.engine.read_on()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    cdef Py_ssize_t read_buffer(self, char **where) except -1:
        if self._conn_lost:
            return 0
        if not self.buffered:
            where[0] = self.context.read_scratch()
            return SCRATCH_SIZE
        cdef bint entered = PyContext_Enter(self.py_context) == 0
        if not entered:
            PyErr_Clear()
        try:
            buffer = self.protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
            PyObject_GetBuffer(buffer, &self.view, PyBUF_WRITABLE)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return 0
        finally:
            if entered:
                PyContext_Exit(self.py_context)
        self.view_held = True
        where[0] = <char *>self.view.buf
        return self.view.len

    cdef int release_view(self) except -1:
        if self.view_held:
            self.view_held = False
            PyBuffer_Release(&self.view)
        return 0

    cdef int received(self, Py_ssize_t result) except -1:
        cdef bint entered = PyContext_Enter(self.py_context) == 0
        if not entered:
            PyErr_Clear()  # a nested poll inside one of this protocol's callbacks
        try:
            self.deliver(result)
        finally:
            if entered:
                PyContext_Exit(self.py_context)
        return 0

    cdef int deliver(self, Py_ssize_t result) except -1:
        cdef bint buffered = self.view_held
        self.release_view()
        if result == 0:
            return self.on_eof()
        if result < 0:
            if result != -EAGAIN and result != -EINTR:
                self.fatal_error(OSError(-result, os.strerror(-result)), "Fatal read error on socket transport")
            return 0
        try:
            if buffered:
                self.protocol.buffer_updated(result)
            else:
                self.protocol.data_received(PyBytes_FromStringAndSize(self.context.scratch, result))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            method = "buffer_updated" if buffered else "data_received"
            self.fatal_error(exc, f"Fatal error: protocol.{method}() call failed.")
        return 0

    cdef int on_eof(self) except -1:
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self.protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return 0
        if keep_open:
            self.engine.read_off()
        else:
            self.close()
        return 0

    # -- writing --

    def write(self, data):
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.eof_sent:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or not self.may_write():
            return
        self.queue_bytes(data)
        if self.blocked:
            self.flow_control()
        elif self.context.dispatching and self.queue.size < GATHER_MAX and self.queue.size <= self.high_water:
            self.context.add_flush(self)
        else:
            self.send_queued()

    def writelines(self, list_of_data):
        if self.eof_sent:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        # All of them first: a bad one must not leave those before it half queued.
        cdef list items = [data if isinstance(data, bytes) else bytes(memoryview(data)) for data in list_of_data]
        if not items or not self.may_write():
            return
        for data in items:
            if data:
                self.queue_bytes(data)
        if self.blocked:
            self.flow_control()
        elif self.queue.size:
            self.send_queued()

    cdef bint may_write(self) except -1:
        """False once the connection is lost: what is written then is dropped, with a warning from the fifth time."""
        if self._conn_lost:
            if self._conn_lost >= LOG_THRESHOLD:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return False
        return True

    cdef int queue_bytes(self, object data) except -1:
        """Hold bytes, copy anything that may change; much of that is sent from where it is first."""
        cdef Py_buffer view
        cdef iovec chunk
        cdef Py_ssize_t sent = 0
        if PyBytes_CheckExact(data):
            return self.queue.append(data, 0)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len >= GATHER_MAX and not self.blocked:
                self.send_queued()
                if self._conn_lost:
                    return 0
                if not self.blocked:
                    chunk.iov_base = view.buf
                    chunk.iov_len = view.len
                    sent = max(0, self.engine.send(&chunk, 1))  # an error comes again with the rest
            if sent < view.len:
                self.queue.append(PyBytes_FromStringAndSize(<char *>view.buf + sent, view.len - sent), 0)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int flush(self) except -1:
        if not self.blocked and not self._conn_lost:
            self.send_queued()
        return 0

    cdef int send_queued(self) except -1:
        """Send what is queued; what the socket does not take waits for writable()."""
        cdef Py_ssize_t sent
        cdef int count
        while self.queue.size:
            count = <int>min(self.queue.count, IOV_MAX)
            sent = self.engine.send(self.queue.chunks + self.queue.head, count)
            if sent < 0:
                if sent == -EAGAIN:
                    break
                self.queue.clear()
                return self.fatal_error(OSError(-sent, os.strerror(-sent)), "Fatal write error on socket transport")
            self.queue.advance(sent)
        if self.queue.size and not self.blocked:
            self.blocked = True
            self.engine.write_on()
        self.flow_control()  # may write more
        if not self.queue.size and (self.closing or self.eof_sent):
            self.all_sent()
        return 0

    cdef int writable(self) except -1:
        cdef bint entered
        if self._conn_lost:
            return 0
        entered = PyContext_Enter(self.py_context) == 0
        if not entered:
            PyErr_Clear()
        try:
            self.blocked = False
            self.send_queued()
            if not self.blocked and not self._conn_lost:
                self.engine.write_off()
        finally:
            if entered:
                PyContext_Exit(self.py_context)
        return 0

    cdef int all_sent(self) except -1:
        """Nothing is left to send: do what waited for that."""
        if self.closing:
            if not self._conn_lost:
                self._conn_lost += 1
                self.engine.detach()
                self._call_connection_lost(None)
        elif not self.eof_done:
            self.eof_done = True
            if c_shutdown(self.fd, SHUT_WR) < 0:
                raise OSError(errno, os.strerror(errno))
        return 0

    def write_eof(self):
        if self.closing or self.eof_sent:
            return
        self.flush()
        self.eof_sent = True
        if not self.queue.size and not self._conn_lost:
            self.all_sent()

    def can_write_eof(self):
        return True

    # -- flow control --

    cdef int flow_control(self) except -1:
        """pause_writing() above the high-water mark, resume_writing() when it is down to the low one again."""
        cdef bint pause
        if self.queue.size > self.high_water:
            if self._protocol_paused:
                return 0
            pause = True
        elif self._protocol_paused and self.queue.size <= self.low_water:
            pause = False
        else:
            return 0
        self._protocol_paused = pause
        try:
            if pause:
                self.protocol.pause_writing()
            else:
                self.protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._loop.call_exception_handler({
                "message": f"protocol.{'pause' if pause else 'resume'}_writing() failed",
                "exception": exc,
                "transport": self,
                "protocol": self.protocol,
            })
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high_water = high
        self.low_water = low
        if not self._conn_lost and self.queue.size > self.high_water:
            self.flow_control()

    def get_write_buffer_limits(self):
        return (self.low_water, self.high_water)

    def get_write_buffer_size(self):
        """Bytes that the socket has not taken."""
        self.flush()
        return self.queue.size

    # -- closing --

    def is_closing(self):
        return self.closing

    def close(self):
        if self.closing:
            return
        self.flush()
        if self._conn_lost:
            return
        self.closing = True
        self.engine.read_off()
        if not self.queue.size:
            self.schedule_connection_lost(None)

    def abort(self):
        self.flush()  # what was written before goes out if the socket takes it, as if write() had sent it at once
        self.force_close(None)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int fatal_error(self, object exc, str message) except -1:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler({
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self.protocol,
            })
        return self.force_close(exc)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        self.fatal_error(exc, message)

    cdef int force_close(self, object exc) except -1:
        if self._conn_lost or self.fd < 0:
            return 0
        self.queue.clear()
        self.closing = True
        return self.schedule_connection_lost(exc)

    cdef int schedule_connection_lost(self, object exc) except -1:
        self._conn_lost += 1
        self.blocked = False
        self.engine.detach()
        self._loop.call_soon(self._call_connection_lost, exc)
        return 0

    def _call_connection_lost(self, exc):
        try:
            self.protocol.connection_lost(exc)
        finally:
            self.release_fd()
            self.protocol = None
            self._loop = None
            self.detach_server()

    cdef int fd_lost(self) except -1:
        """Somebody closed the fd and it is another file now. End without touching it."""
        if self.sock is not None:
            self.sock.detach()
        self.fd = -1
        if not self._conn_lost:
            self.queue.clear()
            self.closing = True
            self._conn_lost += 1
            self._loop.call_soon(self._call_connection_lost, OSError(9, "the transport's fd was closed by somebody else"))
        return 0

    cdef int release_fd(self) except -1:
        cdef int fd = self.fd
        if fd < 0:
            return 0
        self.get_extra_info("sockname")  # known afterwards, too
        self.release_view()
        self.fd = -1
        self.context.settle(self.engine)
        if self.sock is not None:
            self.sock._decref_socketios()
            self.sock.close()
        else:
            close_fd(fd)
        return 0

    def detach_server(self):
        server = self.server
        self.server = None
        if server is not None:
            if ATTACH_TAKES_TRANSPORT:
                server._detach(self)
            else:
                server._detach()


cdef StreamTransport new_stream_transport(AioContext context, object loop, int fd, object sock, int family, int kind,
                                          int proto, object protocol, object waiter, dict extra, object server):
    """Take over a connected non-blocking socket: `sock`, or a bare `fd` where sock is None."""
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    transport.context = context
    transport._loop = loop
    transport.fd = fd
    transport.family = family
    transport.kind = kind
    transport.proto = proto
    transport.extra = extra
    transport.queue = WriteQueue()
    transport.high_water = 64 * 1024
    transport.low_water = 16 * 1024
    transport.py_context = PyContext_CopyCurrent()
    transport.engine = new_readiness_engine(context, transport, fd, family, proto)
    if sock is not None:
        transport.sock = sock
        sock._io_refs += 1
    transport.set_protocol(protocol)
    transport.server = server
    if server is not None:
        if ATTACH_TAKES_TRANSPORT:
            server._attach(transport)
        else:
            server._attach()
    loop.call_soon(protocol.connection_made, transport)
    loop.call_soon(transport._begin_reading, waiter)
    return transport


def make_stream_transport(AioContext context not None, loop, sock, protocol, waiter, dict extra, server):
    """A transport for a connected non-blocking socket object."""
    return new_stream_transport(context, loop, sock.fileno(), sock, sock.family, sock.type, sock.proto, protocol,
                                waiter, extra, server)
