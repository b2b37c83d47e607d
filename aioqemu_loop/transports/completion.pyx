"""The engine of stream sockets: by readiness, or on a monitor that can do so by completion.

By completion the monitor has a receive armed for the connection's life and hands over the bytes as they come, in
buffers that go back as soon as the protocol had them; and what many connections send in a turn goes out in one system
call. The readiness engine underneath takes over wherever that does not serve: a BufferedProtocol has its own memory,
bulk is better read in large pieces, a connection that waits until it may send more is watched for that, and other
monitors only watch.

Bytes never overtake each other: what has come stays in line (`held`, then the chunks, then the end of the stream), and
is delivered before anything is read by readiness.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.system.libc cimport POLLOUT
from aioqemu_loop.transports.engine cimport Sink
from aioqemu_loop.transports.readiness cimport ReadinessEngine, is_tcp, set_up
from aioqemu_loop.uring.buffers cimport BufferRing

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_UNIX

cdef enum:
    NO_END = 1
    # As much as one recv() takes elsewhere, 256 KiB: a connection gets no more of a turn.
    CHUNKS_MAX = 64
    # With so many chunks at once (16 KiB) it is bulk: one recv() then takes two thirds of their time (64 KiB echo, measured). It is
    # over after as many reads that found less than that as it takes to pay for the change.
    BULK_CHUNKS = 4
    BULK_SIZE = 16 * 1024
    BULK_OVER = 32


cdef class SocketEngine(ReadinessEngine):
    """`direct`: what is received goes into the sink's own memory, so only readiness will do."""

    cdef int choose(self) except -1:
        """Let the monitor receive, or not."""
        cdef bint receives = self.reading and not self.direct and not self.bulk_left and self.end == NO_END
        if receives != self.receives:
            self.context.monitor.receive(self, receives)
            self.context.tell_sleeper()
        return 0

    cdef int read_on(self) except -1:
        if self.reading:
            return 0
        ReadinessEngine.read_on(self)
        self.choose()
        if self.pending():
            self.queue_run()
        return 0

    cdef int read_off(self) except -1:
        self.reading = False
        while self.count:
            self.hold()  # for long, perhaps
        return self.choose()

    cdef int set_direct(self, bint direct) except -1:
        self.direct = direct
        return self.choose()

    cdef int detach(self) except -1:
        ReadinessEngine.detach(self)
        return self.drop()

    cdef int fd_lost(self) except -1:
        self.drop()
        return ReadinessEngine.fd_lost(self)

    cdef int drop(self) except -1:
        self.receives = False
        self.held = None
        while self.count:
            self.drop_first()
        return 0

    # -- what the monitor tells --

    cdef int on_data(self, BufferRing buffers, uint32_t index, int size) except -1:
        if self.sink is None:
            return buffers.give(index)
        while self.count and self.buffers is not buffers:
            self.hold()  # of a ring that is gone
        self.buffers = buffers
        self.context.counters.bytes_received += size
        buffers.sizes[index] = size
        if self.count:
            buffers.following[self.last] = index
        else:
            self.first = index
        self.last = index
        self.count += 1
        if not self.reading:
            return self.hold()
        return self.queue_run()

    cdef int on_end(self, int result) except -1:
        self.end = result
        self.receives = False
        # It is known now, and a monitor would report it for ever. A writer may still wait for room.
        self.read_events = 0
        self.events &= POLLOUT
        return self.queue_run()

    cdef bint on_sent(self, int result) except -1:
        if result > 0:
            self.context.counters.bytes_sent += result
        return self.sink is not None and self.sink.sent(result)

    # -- what has come --

    cdef bint pending(self) noexcept:
        return self.count != 0 or self.held is not None or self.end != NO_END

    cdef int drop_first(self) except -1:
        cdef uint32_t index = self.first
        self.first = self.buffers.following[index]
        self.count -= 1
        return self.buffers.give(index)

    cdef int hold(self) except -1:
        """Copy the first chunks, so that others can have the buffers."""
        cdef bytes data = self.take_chunks()
        if self.held is None:
            self.held = [data]
        else:
            self.held.append(data)
        return 0

    cdef bytes take_chunks(self):
        """The bytes of the chunks, CHUNKS_MAX at the most."""
        cdef uint32_t index = self.first
        cdef uint32_t count = min(self.count, <uint32_t>CHUNKS_MAX)
        cdef Py_ssize_t size = 0
        cdef uint32_t i
        for i in range(count):
            size += self.buffers.sizes[index]
            index = self.buffers.following[index]
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef char *where = PyBytes_AS_STRING(data)
        for i in range(count):
            size = self.buffers.sizes[self.first]
            memcpy(where, self.buffers.at(self.first), size)
            where += size
            self.drop_first()
        return data

    cdef Py_ssize_t receive(self, char *where, Py_ssize_t size, bint *more) noexcept:
        cdef Py_ssize_t got = ReadinessEngine.receive(self, where, size, more)
        if self.bulk_left and got > 0:
            self.bulk_left = BULK_OVER if got >= BULK_SIZE else self.bulk_left - 1
        return got

    cdef int run(self) except -1:
        cdef Sink sink = self.sink  # a reference of our own: what it does may make us drop it (detach)
        if sink is None or not self.reading or not self.pending():
            if not self.bulk_left and not self.receives:
                self.choose()
            return ReadinessEngine.run(self)
        if self.count >= BULK_CHUNKS:
            self.bulk_left = BULK_OVER
            self.choose()
        self.queued = False
        if self.revents or self.count > CHUNKS_MAX or self.held is not None or self.end != NO_END:
            self.queue_run()  # first: the protocol may raise
        return self.deliver(sink)

    cdef int deliver(self, Sink sink) except -1:
        """Hand over what is first in line."""
        cdef BufferRing buffers
        cdef bytes data
        cdef uint32_t index
        if self.held is not None:
            data = self.held.pop(0)
            if not self.held:
                self.held = None
        elif self.count == 1:
            buffers, index = self.buffers, self.first
            self.count = 0
            try:
                sink.took(buffers.at(index), buffers.sizes[index], None)
            finally:
                buffers.give(index)
            return 1
        elif self.count:
            data = self.take_chunks()
        else:
            self.reading = False
            try:
                sink.received(self.end)
            except (SystemExit, KeyboardInterrupt):
                self.read_on()  # to tell it once more: nobody has closed the transport
                raise
            return 1
        sink.took(PyBytes_AS_STRING(data), len(data), data)
        return 1

    cdef bint send_later(self, object owner, void *data, Py_ssize_t size) except -1:
        return self.context.monitor.send_later(self, owner, data, <uint32_t>size, self.context.ready_list)


cdef int take_over(SocketEngine engine, SocketEngine old) except -1:
    """`engine` goes on where `old` was taken off its monitor: what came and was not handed over is handed over by it."""
    while old.count:
        old.hold()
    engine.direct = old.direct
    engine.held = old.held
    engine.end = old.end
    engine.bulk_left = old.bulk_left
    if engine.end != NO_END:
        engine.read_events = 0
    old.held = None
    old.sink = None
    return 0


cdef SocketEngine new_socket_engine(AioContext context, Sink sink, int fd, int family, int proto):
    """For a stream socket."""
    cdef SocketEngine engine = SocketEngine.__new__(SocketEngine)
    # The rule about short reads holds for these; other stream families are watched level-triggered.
    set_up(engine, context, sink, fd, is_tcp(family, proto) or family == AF_UNIX)
    engine.known_pollable = True
    engine.local = family == AF_UNIX
    engine.end = NO_END
    return engine
