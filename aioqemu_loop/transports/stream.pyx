"""The stream transport: one state machine for TCP and Unix stream sockets, over an engine that moves the bytes.

Reading: the engine fills a buffer of ours (the context's scratch buffer, or the BufferedProtocol's own) and says how
much. Writing: see `writing`.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF
from libc.errno cimport errno
from posix.unistd cimport close as close_fd

import inspect
import socket
from asyncio import base_events, constants, protocols, transports, trsock
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.core cimport SCRATCH_SIZE
from aioqemu_loop.context.sources cimport Flushable
from aioqemu_loop.system.errors cimport os_error
from aioqemu_loop.system.libc cimport EAGAIN
from aioqemu_loop.system.process cimport same_process
from aioqemu_loop.system.sockaddr cimport name_from_raw, raw_sockname
from aioqemu_loop.transports.base cimport hold_socket, let_go_of_socket
from aioqemu_loop.transports.completion cimport new_socket_engine
from aioqemu_loop.transports.stream_reader cimport feed, is_plain
from aioqemu_loop.transports.writing cimport WritingTransport, refuse_in_child

cdef extern from "<sys/socket.h>" nogil:
    int c_shutdown "shutdown"(int fd, int how)
    enum: SHUT_WR

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject **data, Py_ssize_t size) except -1

cdef extern from *:
    """
    #include "aioqemu_loop/system/made_by_us.h"
    AIO_MADE_BY_US(stream_transport)
    """
    void stream_transport_made_by_us(PyTypeObject *type)

# After a read of this size the next one goes into a bytes object that is then cut to size. Copying what is smaller out of the
# scratch buffer, which is in the cache, costs less than that.
cdef Py_ssize_t LARGE_READ = 96 * 1024
cdef object BufferedProtocol = protocols.BufferedProtocol
cdef object Socket = socket.socket
cdef bint ATTACH_TAKES_TRANSPORT = "transport" in inspect.signature(base_events.Server._attach).parameters


class SocketTransport(transports._FlowControlMixin, transports.Transport):
    """What `transport.__class__` answers (see `base`)."""


cdef class Layer(Flushable):
    """A protocol of ours that is a transport for another one: it takes what was read without a bytes object between. All
    else it is told as any asyncio.Protocol, which it also is for transports that are not ours."""

    cdef int bytes_received(self, char *data, Py_ssize_t size) except -1:
        """`data` is good until anything else runs."""
        raise NotImplementedError


cdef class StreamTransport(WritingTransport):
    """asyncio.Transport for a connected stream socket. Made by the loop's create_connection, create_server, ..."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def __class__(self):
        return SocketTransport

    @property
    def _sock(self):
        return self.get_socket() if self.fd >= 0 else None

    def _repr_io(self):
        return [f"read={'polling' if self.is_reading() else 'idle'}", *WritingTransport._repr_io(self)]

    # -- protocol and extra information --

    def set_protocol(self, protocol):
        self.protocol = protocol
        self.buffered = isinstance(protocol, BufferedProtocol)
        self.layer = <Layer>protocol if isinstance(protocol, Layer) else None
        self.plain_reader = is_plain(protocol)
        if self.engine is not None:
            self.engine.set_direct(self.buffered)

    cdef int lookup(self, str name) except -1:
        if name == "sockname":
            self.extra[name] = name_from_raw(raw_sockname(self.fd) if self.raw_own is None else self.raw_own)
        elif name == "peername" and self.raw_peer is not None:
            self.extra[name] = name_from_raw(self.raw_peer)
        elif name == "socket":
            self.extra[name] = trsock.TransportSocket(self.get_socket())
        return 0

    cdef object get_socket(self):
        if self.file is None:
            if self.fd < 0:  # asked for only now: a closed one, as the one it had would be
                self.file = Socket(self.family, self.kind, self.proto)
                self.file.close()
                return self.file
            self.file = Socket(self.family, self.kind, self.proto, self.fd)
            hold_socket(self.file)
        return self.file

    # -- reading --

    cdef Py_ssize_t read_buffer(self, char **where) except -1:
        cdef bint entered
        if self._conn_lost:
            return 0
        if not self.buffered:
            where[0] = self.context.read_scratch()
            if self.last_read >= LARGE_READ and self.layer is None and not self.plain_reader:
                self.filling = new_bytes(NULL, SCRATCH_SIZE)
                where[0] = PyBytes_AS_STRING(<object>self.filling)
            return SCRATCH_SIZE
        entered = self.enter_context()
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
            self.leave_context(entered)
        self.view_held = True
        where[0] = <char *>self.view.buf
        return self.view.len

    cdef int release_view(self) except -1:
        if self.view_held:
            self.view_held = False
            PyBuffer_Release(&self.view)
        return 0

    cdef int received(self, Py_ssize_t result) except -1:
        cdef bint entered = self.enter_context()
        try:
            self.deliver(result)
        finally:
            self.leave_context(entered)
        return 0

    cdef int deliver(self, Py_ssize_t result) except -1:
        cdef bint buffered = self.view_held
        cdef bytes data = self.take_filled(result) if self.filling != NULL else None
        self.last_read = result
        self.release_view()
        if result == 0:
            return self.on_eof()
        if result < 0:
            if result != -EAGAIN:
                self.fatal_error(os_error(<int>-result), "Fatal read error on socket transport")
            return 0
        return self.hand_over(NULL if buffered else self.context.scratch, result, data)

    cdef bytes take_filled(self, Py_ssize_t result):
        cdef PyObject *filled = self.filling
        cdef bytes data
        self.filling = NULL
        if result > 0:
            _PyBytes_Resize(&filled, result)
        data = <bytes>filled
        Py_DECREF(data)
        return data

    cdef int took(self, char *data, Py_ssize_t size, bytes owner) except -1:
        cdef bint entered
        if self._conn_lost:
            return 0
        entered = self.enter_context()
        try:
            self.hand_over(data, size, owner)
        finally:
            self.leave_context(entered)
        return 0

    cdef int hand_over(self, char *data, Py_ssize_t size, bytes owner) except -1:
        """Tell the protocol of `size` bytes at `data`, which `owner` may hold; NULL: they are in its own buffer."""
        cdef Layer layer = self.layer  # a reference of our own: it may be replaced by what it calls
        try:
            if data == NULL:
                self.protocol.buffer_updated(size)
            elif layer is not None:
                layer.bytes_received(data, size)
            elif self.plain_reader:
                feed(self.protocol, data, size)
            else:
                if owner is None:
                    owner = PyBytes_FromStringAndSize(data, size)
                if self.buffered:  # it was not when they came
                    protocols._feed_data_to_buffered_proto(self.protocol, owner)
                else:
                    self.protocol.data_received(owner)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            method = "buffer_updated" if data == NULL or self.buffered or layer is not None else "data_received"
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

    cdef int refuse_write(self, str method) except -1:
        if self.eof_sent:
            raise RuntimeError(f"Cannot call {method}() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError(f"unable to {method}; sendfile is in progress")
        return 0

    cdef int writable(self) except -1:
        if self.room_waiter is None:
            return WritingTransport.writable(self)
        self.wake_sendfile(None)  # first: the other may fail
        return self.engine.write_off()

    cdef int all_sent(self) except -1:
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.closing:
            return WritingTransport.all_sent(self)
        if self.eof_sent and not self.eof_done:
            self.eof_done = True
            if c_shutdown(self.fd, SHUT_WR) < 0:
                raise os_error(errno)
        return 0

    cdef int send_bytes(self, bytes data) except -1:
        """write() for a layer, which has gathered by itself: nothing is held back."""
        if not self.may_write():
            return 0
        self.queue.append(data, 0)
        return self.flow_control() if self.blocked else self.flush()

    def write_eof(self):
        if self.closing or self.eof_sent:
            return
        refuse_in_child(self.context)
        self.flush_now()
        self.eof_sent = True
        if not self.queue.size and not self._conn_lost:
            self.all_sent()

    def can_write_eof(self):
        return True

    # -- sendfile: the loop sends from a file between the bytes of write() --

    def _make_empty_waiter(self):
        """A future that is done when all output has been sent. Until _reset_empty_waiter() nothing can be written."""
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.flush_now()
        self.empty_waiter = self._loop.create_future()
        if not self.queue.size:
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _reset_empty_waiter(self):
        self.empty_waiter = self.room_waiter = None

    def _sendfile_fd(self):
        """The socket's fd. Raises ConnectionError where the transport is closed by now."""
        if self._conn_lost:
            raise connection_closed()
        return self.fd

    def _wait_writable(self):
        """A future that is done when the socket may take more; it fails when the transport is closed. Raises
        ConnectionError where it is closed by now."""
        if self._conn_lost:
            raise connection_closed()
        self.room_waiter = self._loop.create_future()
        self.engine.write_on()
        return self.room_waiter

    cdef int wake_sendfile(self, object exc) except -1:
        waiter = self.room_waiter
        self.room_waiter = None
        if not waiter.done():
            if exc is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(exc)
        return 0

    cdef int end_sendfile(self) except -1:
        if self.room_waiter is not None:
            self.wake_sendfile(connection_closed())
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(connection_closed())
        return 0

    # -- closing --

    cdef bint is_elsewhere(self, object method) except -1:
        """True where this is another thread than the transport's, which may have moved since somebody learned of it; its own
        thread calls `method` then. A forked child has no such thread."""
        if self.context.is_home() or not same_process(self.context.mark):
            return False
        self._loop.call_soon_threadsafe(method)
        return True

    def abort(self):
        if not self._conn_lost and self.is_elsewhere(self.abort):
            return
        WritingTransport.abort(self)

    def close(self):
        if self.closing or self.is_elsewhere(self.close):
            return
        self.flush_now()
        if self._conn_lost:
            return
        self.closing = True
        self.engine.read_off()
        if not self.queue.size:
            self.schedule_connection_lost(None)

    cdef int schedule_connection_lost(self, object exc) except -1:
        self.end_sendfile()
        return WritingTransport.schedule_connection_lost(self, exc)

    cdef int fd_lost(self) except -1:
        self.end_sendfile()
        return WritingTransport.fd_lost(self)

    cdef int release_fd(self) except -1:
        if self.fd >= 0:
            if self.extra is None or "sockname" not in self.extra:
                self.raw_own = raw_sockname(self.fd)  # known afterwards, too
            self.release_view()
        return WritingTransport.release_fd(self)

    cdef int close_file(self, int fd) except -1:
        if self.file is not None:
            let_go_of_socket(self.file)
        else:
            close_fd(fd)
        return 0

    cdef int let_go(self) except -1:
        server = self.server
        self.server = None
        if server is not None:
            if ATTACH_TAKES_TRANSPORT:
                server._detach(self)
            else:
                server._detach()
        return 0


cdef object connection_closed():
    return ConnectionError("Connection is closed by peer")


cdef StreamTransport new_stream_transport(AioContext context, object loop, int fd, object sock, int family, int kind,
                                          int proto, object protocol, object waiter, dict extra, object server,
                                          object given_context, object own_context=None):
    """Take over a connected non-blocking socket: `sock`, or a bare `fd` where sock is None. The protocol is called in
    `given_context`, or where that is None in copies of the current one: in `own_context`, if nobody else uses it."""
    cdef StreamTransport transport = StreamTransport.__new__(StreamTransport)
    transport.set_up(context, loop, fd, sock, protocol, extra, given_context, own_context)
    transport.what = "socket transport"
    transport.family = family
    transport.kind = kind
    transport.proto = proto
    transport.engine = new_socket_engine(context, transport, fd, family, proto)
    transport.engine.set_direct(transport.buffered)
    if sock is not None:
        hold_socket(sock)
    transport.server = server
    if server is not None:
        if ATTACH_TAKES_TRANSPORT:
            server._attach(transport)
        else:
            server._attach()
    transport.start(waiter)
    return transport


def make_stream_transport(AioContext context not None, loop, sock, protocol, waiter, dict extra, server, py_context):
    """A transport for a connected non-blocking socket object. `py_context`: see new_stream_transport."""
    return new_stream_transport(context, loop, sock.fileno(), sock, sock.family, sock.type, sock.proto, protocol,
                                waiter, extra, server, py_context)


stream_transport_made_by_us(<PyTypeObject *>StreamTransport)
