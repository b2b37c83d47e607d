"""The readiness engines: the monitor says that a file is ready, and an ordinary system call does the work.

For stream sockets it asks for edge-triggered reports, one per change, and so registers a socket once for its life: pausing and resuming
cost no system call. On a level-triggered monitor it gives up its interest at the first report that it cannot use.

Why one report is enough: a recv() that fills less than its buffer has emptied the socket, and whatever comes later is
a new report. There are three exceptions, in which it reads on until EAGAIN: the end of the stream came in the same
report (RDHUP, HUP, ERR), TCP urgent data, at which recv() stops short (PRI), and a Unix socket's ancillary data
(MSG_CTRUNC).

Pipes, terminals and whatever else is given as a pipe are watched level-triggered: a terminal gives one line at a time,
a pipe in packet mode one packet.
"""

from libc.errno cimport errno
from libc.string cimport memset
from posix.unistd cimport close as close_fd

import fcntl

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.counters cimport count_received, count_sent
from aioqemu_loop.system.libc cimport (
    EAGAIN,
    EINTR,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
)
from aioqemu_loop.transports.engine cimport Engine, Sink, iovec

cdef extern from "<sys/uio.h>" nogil:
    ssize_t writev(int fd, const iovec *chunks, int count)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t size)

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        int msg_flags
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        MSG_CTRUNC
        MSG_DONTWAIT
        MSG_NOSIGNAL

cdef extern from "<netinet/in.h>" nogil:
    enum: IPPROTO_TCP

cdef int READ_EVENTS = POLLIN | POLLPRI | POLLRDHUP | POLLHUP | POLLERR | POLLNVAL
cdef int WRITE_EVENTS = POLLOUT | POLLHUP | POLLERR | POLLNVAL
# After these a short read does not mean that the socket is empty.
cdef int READ_ON_EVENTS = POLLPRI | POLLRDHUP | POLLHUP | POLLERR


cdef class ReadinessEngine(Engine):
    cdef int run(self) except -1:
        # A reference of our own: what the sink does may make us drop it (detach).
        cdef Sink sink = self.sink
        cdef int revents = self.revents
        self.revents = 0
        self.queued = False
        if sink is None:
            return 0
        if revents & READ_EVENTS:
            if self.reading:
                if revents & WRITE_EVENTS and self.writing:
                    # In the next turn: an exit raised while reading must not lose it.
                    self.on_ready(POLLOUT)
                    self.read(sink, revents)
                    return 1
                self.read(sink, revents)
            else:
                self.readable = True
                if not (self.edge and self.context.monitor.edge):
                    self.context.change_events(self, POLLOUT if self.writing else 0)
        if revents & WRITE_EVENTS and self.writing and self.sink is not None:
            sink.writable()
        return 1

    cdef int read(self, Sink sink, int revents) except -1:
        cdef char *where = NULL
        cdef bint more = revents & READ_ON_EVENTS != 0
        cdef Py_ssize_t size = sink.read_buffer(&where)
        cdef Py_ssize_t got
        if size <= 0:
            return 0
        got = self.receive(where, size, &more)
        count_received(&self.context.counters, got)
        if got > 0 and self.edge and (more or got == size):
            self.read_again(revents)  # queued first: the protocol may raise
        elif got == 0 and self.edge:
            self.readable = True  # the end stays, but is not reported again: for read_on() after a pause
        try:
            sink.received(got)
        except (SystemExit, KeyboardInterrupt):
            if got == 0 and self.edge:
                self.read_again(revents)  # nobody has closed the transport for it
            raise
        return 0

    cdef int read_again(self, int revents) except -1:
        """Read more in the next turn, after everybody else had theirs."""
        return self.on_ready(revents & READ_ON_EVENTS | POLLIN)

    cdef Py_ssize_t receive(self, char *where, Py_ssize_t size, bint *more) noexcept:
        """Bytes read, or -errno. Sets `more` where there may be more to read although the buffer was not filled."""
        cdef iovec chunk
        cdef msghdr message
        cdef ssize_t got
        while True:
            if self.local:
                memset(&message, 0, sizeof(message))
                chunk.iov_base = where
                chunk.iov_len = size
                message.msg_iov = &chunk
                message.msg_iovlen = 1
                got = recvmsg(self.fd, &message, MSG_DONTWAIT)
                if got > 0 and message.msg_flags & MSG_CTRUNC:
                    more[0] = True
            else:
                got = recv(self.fd, where, size, MSG_DONTWAIT)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef int watch(self) except -1:
        """Bring the monitor's view in line with what is wanted."""
        cdef int events = self.events
        if self.reading:
            events |= self.read_events
        elif not self.edge:
            events &= ~self.read_events
        if self.writing:
            events |= POLLOUT
        else:
            events &= ~POLLOUT
        if not self.added:
            self.events = events
            self.context.add_handler(self)
            self.added = True
        elif events != self.events:
            self.context.change_events(self, events)
        return 0

    cdef int read_on(self) except -1:
        if self.reading:
            return 0
        self.reading = True
        self.watch()
        if self.readable:
            self.readable = False
            self.on_ready(READ_ON_EVENTS & ~POLLPRI | POLLIN)
        return 0

    cdef int read_off(self) except -1:
        self.reading = False  # the monitor is told when it next reports in vain, if at all
        return 0

    cdef int write_on(self) except -1:
        if not self.writing:
            self.writing = True
            self.watch()
        return 0

    cdef int write_off(self) except -1:
        if self.writing:
            self.writing = False
            self.watch()
        return 0

    cdef Py_ssize_t send(self, iovec *chunks, int count) noexcept:
        cdef msghdr message
        cdef ssize_t sent
        while True:
            if count == 1:
                sent = c_send(self.fd, chunks.iov_base, chunks.iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = chunks
                message.msg_iovlen = count
                sent = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            count_sent(&self.context.counters, sent)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef int detach(self) except -1:
        self.reading = self.writing = False
        self.sink = None
        if self.added:
            self.added = False
            self.context.remove_handler(self)
        return 0


cdef class PipeEngine(ReadinessEngine):
    """For non-blocking files that are no stream sockets of ours: pipes, terminals, sockets handed over as pipes.

    `shared`: another transport may watch the same fd (a terminal's, that is read and written), so this one watches a
    duplicate; close_duplicate() once it is settled.
    """

    cdef int watch(self) except -1:
        if self.shared and self.duplicate_of < 0:
            duplicate = fcntl.fcntl(self.fd, fcntl.F_DUPFD_CLOEXEC, 0)
            self.duplicate_of = self.fd
            self.fd = duplicate
        return ReadinessEngine.watch(self)

    cdef int close_duplicate(self) except -1:
        cdef int duplicate = self.fd
        if self.duplicate_of >= 0:
            self.fd = self.duplicate_of
            self.duplicate_of = -1
            close_fd(duplicate)
        return 0

    cdef Py_ssize_t receive(self, char *where, Py_ssize_t size, bint *more) noexcept:
        cdef ssize_t got
        while True:
            got = c_read(self.fd, where, size)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef Py_ssize_t send(self, iovec *chunks, int count) noexcept:
        cdef ssize_t sent
        while True:
            sent = writev(self.fd, chunks, count)
            count_sent(&self.context.counters, sent)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef int watch_end_only(self) except -1:
        """To be told of nothing but the end of a pipe, which is reported whatever is asked for."""
        self.read_events = POLLPRI
        return 0


cdef int set_up(ReadinessEngine engine, AioContext context, Sink sink, int fd, bint edge) except -1:
    engine.context = context
    engine.ready = context.ready
    engine.sink = sink
    engine.fd = fd
    engine.edge = edge
    engine.read_events = POLLIN | POLLRDHUP | POLLPRI if edge else POLLIN
    return 0


cdef bint is_tcp(int family, int proto) noexcept:
    """Of a stream socket."""
    return (family == AF_INET or family == AF_INET6) and (proto == 0 or proto == IPPROTO_TCP)


cdef PipeEngine new_pipe_engine(AioContext context, Sink sink, int fd):
    cdef PipeEngine engine = PipeEngine.__new__(PipeEngine)
    set_up(engine, context, sink, fd, False)
    engine.duplicate_of = -1
    return engine
