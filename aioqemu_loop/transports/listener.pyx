"""A listening stream socket: accepts natively and makes a transport for each connection."""

from libc.errno cimport errno
from posix.unistd cimport close as close_fd

import contextvars
import socket
from asyncio import constants, trsock

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.sources cimport OwnedHandler
from aioqemu_loop.system.errors cimport os_error
from aioqemu_loop.system.libc cimport (
    EAGAIN,
    EBADF,
    ECONNABORTED,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINTR,
    EMFILE,
    ENETDOWN,
    ENETUNREACH,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENONET,
    ENOPROTOOPT,
    EPERM,
    EPROTO,
    POLLIN,
)
from aioqemu_loop.system.sockaddr cimport (
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    accept4,
    address_to_python,
    raw_address,
    sockaddr,
    sockaddr_storage,
    socklen_t,
)
from aioqemu_loop.transports.stream cimport StreamTransport, new_stream_transport

cdef extern from "Python.h":
    object PyContext_Copy(object context)
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

# accept(2), "Error handling": errors that belong to one connection which is gone, not to the listener.
cdef tuple CONNECTION_ERRORS = (ECONNABORTED, EPROTO, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETDOWN,
                                ENETUNREACH, EPERM)
cdef tuple RESOURCE_ERRORS = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


cdef class Listener(OwnedHandler):
    """Accepts on `sock` until close(). `make_tls(sock, protocol, peername, server, py_context)` is called instead of
    making a plain transport where it is not None. `py_context`: each connection's own context is a copy of it (3.15);
    None: connections get copies of the current one. `hand_over(sock, peername, py_context)`, where it is not None, gets what
    is accepted: protocol and transport are made elsewhere then."""

    def __cinit__(self, AioContext context not None, loop, sock, protocol_factory, make_tls, server, int backlog,
                 py_context, hand_over=None):
        self.context = context
        self.ready = context.ready
        self.loop = loop
        self.sock = sock
        self.protocol_factory = protocol_factory
        self.make_tls = make_tls
        self.hand_over = hand_over
        self.server = server
        self.backlog = backlog
        self.py_context = contextvars.copy_context() if py_context is None else py_context
        self.shares_context = py_context is not None
        self.family = sock.family
        self.kind = sock.type
        self.proto = sock.proto
        self.fd = sock.fileno()
        self.known_pollable = True
        self.events = POLLIN
        context.add_handler(self)

    cdef object owner(self):
        return self.server if self.server is not None else self.sock

    cdef int fd_lost(self) except -1:
        self.closed = True
        return 0

    cdef int run(self) except -1:
        """Accept what is there, up to the backlog: the rest is found in the next turn."""
        cdef sockaddr_storage address
        cdef socklen_t size
        cdef int fd, i
        cdef int failures = 0
        self.queued = False
        self.revents = 0
        for i in range(self.backlog + 1):
            if self.closed:
                return 0
            size = sizeof(address)
            fd = accept4(self.fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.context.counters.accepts += 1
            else:
                if errno == EAGAIN:
                    return 1
                if errno == EINTR:
                    continue
                failures += 1
                if errno in CONNECTION_ERRORS and failures <= self.backlog:
                    continue
                return self.accept_failed(errno)  # or nothing but such errors: it is not the connections
            self.context.claim(fd)  # before any other code can write to a transport that had the number
            own = PyContext_Copy(self.py_context)
            PyContext_Enter(own)
            try:
                self.accepted(fd, &address, size, own)
            finally:
                PyContext_Exit(own)
        return 1

    cdef int accepted(self, int fd, sockaddr_storage *address, socklen_t size, object own) except -1:
        """In `own`, the connection's context. Errors of the protocol factory are told, as by asyncio since gh-155934; before, only
        debug mode showed them."""
        cdef StreamTransport transport
        cdef bint taken = False
        protocol = None
        given_context = own if self.shares_context else None
        try:
            if self.hand_over is not None:
                conn = socket.socket(self.family, self.kind, self.proto, fd)
                taken = True
                self.hand_over(conn, address_to_python(address, size), given_context)
                return 0
            protocol = self.protocol_factory()
            if self.make_tls is None:
                taken = True
                transport = new_stream_transport(self.context, self.loop, fd, None, self.family, self.kind, self.proto, protocol,
                                                 None, None, self.server, given_context, own)
                transport.raw_peer = raw_address(address, size)
            else:
                conn = socket.socket(self.family, self.kind, self.proto, fd)
                taken = True
                self.make_tls(conn, protocol, address_to_python(address, size), self.server, given_context)
        except (SystemExit, KeyboardInterrupt):
            if not taken:
                close_fd(fd)
            raise
        except BaseException as exc:
            if not taken:
                close_fd(fd)
            details = {"message": "Error on transport creation for incoming connection", "exception": exc}
            if protocol is not None:
                details["protocol"] = protocol
            self.loop.call_exception_handler(details)
        return 0

    cdef int accept_failed(self, int err) except -1:
        exc = os_error(err)
        if err == EBADF:  # closed behind our back: the monitor has let go of it
            raise exc
        self.loop.call_exception_handler({
            "message": f"socket.accept() {'out of system resource' if err in RESOURCE_ERRORS else 'failed'}",
            "exception": exc,
            "socket": trsock.TransportSocket(self.sock),
        })
        # The connections stay in the backlog; without the pause the loop would spin on them.
        self.context.remove_handler(self)
        self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.accept_again)
        return 0

    def accept_again(self):
        if self.closed:
            return
        try:
            self.context.add_handler(self)
        except OSError as exc:  # the shortage lasts
            self.accept_failed(exc.errno)

    def close(self):
        """Stop accepting and close the socket; when this returns the port is free."""
        if self.closed:
            return
        self.closed = True
        self.context.remove_handler(self)
        try:
            self.context.settle(self)
        finally:
            self.sock.close()
