"""The datagram transport, for UDP and Unix sockets; other families go through the socket module.

Receiving takes a batch of datagrams in one recvmmsg() and hands them to the protocol one after the other. Sockets are
watched edge-triggered: a batch that was not filled has emptied the socket. Sending tries at once; what the socket does
not take is queued, whole datagrams in order.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.string cimport memset

import collections
import sys
from asyncio import constants, transports, trsock
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.counters cimport count_received, count_sent
from aioqemu_loop.context.core cimport SCRATCH_ROOM
from aioqemu_loop.system.errors cimport os_error
from aioqemu_loop.system.libc cimport POLLERR, POLLHUP
from aioqemu_loop.system.sockaddr cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    address_from_python,
    address_to_python,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from aioqemu_loop.transports.base cimport FlowControlledTransport, hold_socket, let_go_of_socket
from aioqemu_loop.transports.engine cimport Sink, iovec
from aioqemu_loop.transports.readiness cimport ReadinessEngine, set_up

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    ssize_t c_sendto "sendto"(int fd, const void *buffer, size_t size, int flags, const sockaddr *to, socklen_t length)
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL

cdef enum:
    BATCH_MIN = 2
    BATCH_MAX = 16
    # Room for the largest UDP datagram (65,507 bytes of data over IPv4, 65,527 over IPv6).
    UDP_ROOM = 64 * 1024
    # asyncio's max_size, for Unix sockets.
    UNIX_ROOM = 256 * 1024

cdef int LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
# From 3.13 on asyncio sends empty datagrams, and counts a header for each that is queued (documented at sendto()).
cdef bint SENDS_EMPTY = sys.version_info >= (3, 13)
cdef Py_ssize_t HEADER_SIZE = 8 if SENDS_EMPTY else 0
# Nothing tells when another Unix socket's full queue has room again, unless it is the connected peer: try this often.
cdef double RETRY_SECONDS = 0.001


cdef object name_or_none(object get_name):
    try:
        return get_name()
    except OSError:
        return None


class SocketDatagramTransport(transports._FlowControlMixin, transports.Transport, transports.DatagramTransport):
    """What `transport.__class__` answers (see `base`)."""


cdef class DatagramEngine(ReadinessEngine):
    cdef int read(self, Sink sink, int revents) except -1:
        return (<DatagramTransport>sink).read_datagrams(revents)


cdef class DatagramTransport(FlowControlledTransport):
    """asyncio.DatagramTransport. Made by loop.create_datagram_endpoint."""

    def __cinit__(self, AioContext context not None, loop, sock, protocol, address, waiter, extra):
        cdef DatagramEngine engine = DatagramEngine.__new__(DatagramEngine)
        extra = {**(extra or {}), "socket": trsock.TransportSocket(sock), "sockname": name_or_none(sock.getsockname)}
        if "peername" not in extra:
            extra["peername"] = name_or_none(sock.getpeername)
        self.remote = address
        self.connected = extra["peername"] is not None
        self.peer_unnamed = extra["peername"] == ""
        self.family = sock.family
        self.native = self.family in (AF_INET, AF_INET6, AF_UNIX)
        self.batch = BATCH_MIN
        self.queue = collections.deque()
        self.arrived = []
        set_up(engine, context, self, sock.fileno(), self.native)
        engine.known_pollable = True
        self.engine = engine
        hold_socket(sock)
        self.set_up(context, loop, sock.fileno(), sock, protocol, extra, None)
        self.start(waiter)

    @property
    def __class__(self):
        return SocketDatagramTransport

    @property
    def _sock(self):
        return self.file

    def _repr_io(self):
        reading, writing = "polling" if self.is_reading() else "idle", "polling" if self.queue else "idle"
        return [f"read={reading}", f"write=<{writing}, bufsize={self.size}>"]

    # -- receiving --

    cdef int read_datagrams(self, int revents) except -1:
        """What an exception of the protocol leaves over is handed out in the next turn."""
        cdef bint entered
        cdef bint more
        if self._conn_lost:
            return 0
        more = True if self.arrived else self.receive(revents)
        entered = self.enter_context()
        try:
            self.deliver()
        finally:
            self.leave_context(entered)
            if (more and self.native or self.arrived) and not self._conn_lost:
                (<ReadinessEngine>self.engine).read_again(revents)
        return 0

    cdef bint receive(self, int revents) except -1:
        """Put what is there, a batch at the most, into `arrived`, last one first. True: there may be more."""
        return self.receive_batch(revents) if self.native else self.receive_one()

    cdef bint receive_batch(self, int revents) except -1:
        cdef mmsghdr messages[BATCH_MAX]
        cdef iovec chunks[BATCH_MAX]
        cdef sockaddr_storage names[BATCH_MAX]
        cdef Py_ssize_t room = UNIX_ROOM if self.family == AF_UNIX else UDP_ROOM
        cdef int count = <int>min(<Py_ssize_t>self.batch, SCRATCH_ROOM // room)
        cdef char *scratch = self.context.read_scratch()
        cdef list found = [None] * count
        cdef int i, got
        memset(messages, 0, count * sizeof(mmsghdr))
        for i in range(count):
            chunks[i].iov_base = scratch + i * room
            chunks[i].iov_len = room
            messages[i].msg_hdr.msg_iov = &chunks[i]
            messages[i].msg_hdr.msg_iovlen = 1
            messages[i].msg_hdr.msg_name = &names[i]
            messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
        while True:
            got = recvmmsg(self.fd, messages, count, MSG_DONTWAIT, NULL)
            if got >= 0 or errno != EINTR:
                break
        self.context.counters.receives += 1
        if got < 0:
            if errno == EAGAIN:
                return False
            if errno == EBADF:
                self.fatal_error(os_error(errno), "Fatal read error on datagram transport")
                return False
            self.arrived.append((None, os_error(errno)))
            return True
        # First all the data: making other objects may run finalizers, and they may use the scratch buffer.
        for i in range(got):
            found[i] = PyBytes_FromStringAndSize(scratch + i * room, messages[i].msg_len)
            self.context.counters.bytes_received += messages[i].msg_len
        for i in range(got - 1, -1, -1):
            self.arrived.append((found[i], address_to_python(&names[i], messages[i].msg_hdr.msg_namelen)))
        if got == count:
            self.batch = min(BATCH_MAX, self.batch * 2)
            return True
        if got <= count // 4:
            self.batch = max(BATCH_MIN, self.batch // 2)
        # An error that came behind the datagrams is told by the next call only.
        return revents & (POLLERR | POLLHUP) != 0

    cdef bint receive_one(self) except -1:
        try:
            data, address = self.file.recvfrom(UNIX_ROOM)
            count_received(&self.context.counters, len(data))
            self.arrived.append((data, address))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.arrived.append((None, exc))
        return True

    cdef int deliver(self) except -1:
        while self.arrived and not self.closing:
            if self.paused:
                (<ReadinessEngine>self.engine).readable = True
                return 0
            data, address = self.arrived.pop()
            if data is None:
                self.protocol.error_received(address)
            else:
                self.protocol.datagram_received(data, address)
        return 0

    # -- sending --

    def sendto(self, data, addr=None):
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not SENDS_EMPTY and not data:  # in this order: a view without dimensions has no length
            return
        if self.remote:
            if addr not in (None, self.remote):
                raise ValueError(f"Invalid address: must be None or {self.remote}")
            addr = self.remote
        if self.fd < 0 or self._conn_lost and self.remote:
            if self._conn_lost >= LOG_THRESHOLD:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self.queue:
            if self.send(data, addr) or self._conn_lost:
                return
            self.wait_for_room()
        data = bytes(data)
        self.queue.append((data, addr))
        self.size += len(<bytes>data) + HEADER_SIZE
        self.flow_control()

    cdef bint send(self, object data, object address) except -1:
        """False where it must wait. An error is the protocol's to hear of."""
        cdef int err
        try:
            if not self.native:
                self.send_by_socket(data, address)
                return True
            err = self.send_native(data, address)
            if err == EAGAIN:
                return False
            if err:
                raise os_error(err)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self.protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal write error on datagram transport")
        return True

    cdef int send_native(self, object data, object address) except -1:
        """Returns 0 or an errno; raises what the socket module raises for an address that is not a plain one."""
        cdef sockaddr_storage name
        cdef socklen_t length = 0
        cdef Py_buffer view
        cdef ssize_t sent
        cdef bint to_peer = self.goes_to_peer(address)
        if not to_peer:
            length = address_from_python(address, self.family, &name)
            if length == 0:
                self.send_by_socket(data, address)
                return 0
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                if to_peer:
                    sent = c_send(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL)
                else:
                    sent = c_sendto(self.fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL, <sockaddr *>&name, length)
                count_sent(&self.context.counters, sent)
                if sent >= 0:
                    return 0
                if errno != EINTR:
                    return errno
        finally:
            PyBuffer_Release(&view)

    cdef bint goes_to_peer(self, object address) except -1:
        """asyncio looks at the peer's name: where that is empty, an address that is given counts."""
        return self.connected and (address is None or not self.peer_unnamed)

    def send_by_socket(self, data, address):
        if self.goes_to_peer(address):
            self.file.send(data)
        else:
            self.file.sendto(data, address)
        count_sent(&self.context.counters, memoryview(data).nbytes)

    cdef int wait_for_room(self) except -1:
        if self.family != AF_UNIX or self.connected:
            self.engine.write_on()
        elif not self.retrying:
            self.retrying = True
            self._loop.call_later(RETRY_SECONDS, self._retry)
        return 0

    def _retry(self):
        self.retrying = False
        self.writable()

    cdef int writable(self) except -1:
        cdef bint entered
        if self._conn_lost:
            return 0
        entered = self.enter_context()
        try:
            self.send_queued()
        except BaseException:
            # The protocol's. What is left must not wait for a report that has been used up.
            if not self._conn_lost:
                self._loop.call_soon(self._retry)
            raise
        finally:
            self.leave_context(entered)
        return 0

    cdef int send_queued(self) except -1:
        while self.queue:
            data, address = self.queue.popleft()
            self.size -= len(<bytes>data) + HEADER_SIZE
            if not self.send(data, address):
                self.queue.appendleft((data, address))
                self.size += len(<bytes>data) + HEADER_SIZE
                self.wait_for_room()
                break
            if self._conn_lost:
                return 0
        self.flow_control()  # may send more
        if self.queue or self._conn_lost:
            return 0
        self.engine.write_off()
        if self.closing:
            self._conn_lost += 1
            self.engine.detach()
            self._call_connection_lost(None)
        return 0

    cdef Py_ssize_t buffered_size(self) noexcept:
        return self.size

    def get_write_buffer_size(self):
        """Bytes in datagrams that the socket has not taken."""
        return self.size

    # -- closing --

    cdef int drop_output(self) except -1:
        self.queue.clear()
        self.size = 0
        return 0

    def close(self):
        if self.closing:
            return
        self.closing = True
        self.engine.read_off()
        if not self.queue:
            self.schedule_connection_lost(None)

    def abort(self):
        self.force_close(None)

    cdef int close_file(self, int fd) except -1:
        let_go_of_socket(self.file)
        return 0
