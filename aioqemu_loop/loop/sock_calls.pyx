"""What the sock_* coroutines are made of: system calls that do not block, and waiting for a socket.

The calls go to the fd itself: the socket module would make an exception for each that would block. It is asked where
arguments are out of the ordinary, so that their errors are its own; not after a call that failed, because the kernel
tells of a connection's error only once, and then of an end of the stream.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.core cimport SCRATCH_SIZE
from aioqemu_loop.context.counters cimport count_received, count_sent
from aioqemu_loop.fdmon.base cimport Runnable
from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.system.errors cimport os_error

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL


def recv(LoopCore loop not None, sock, nbytes):
    """bytes, or None: nothing there yet. Raises what sock.recv() raises."""
    cdef int fd
    cdef ssize_t got
    cdef char *scratch
    if type(nbytes) is not int or not 0 < nbytes <= SCRATCH_SIZE:
        return call(sock.recv, nbytes)
    fd = sock.fileno()
    scratch = loop.context.read_scratch()
    while True:
        got = c_recv(fd, scratch, nbytes, MSG_DONTWAIT)
        count_received(&loop.context.counters, got)
        if got >= 0:
            return PyBytes_FromStringAndSize(scratch, got)
        if errno == EAGAIN:
            return None
        if errno != EINTR:
            raise os_error(errno)


def recv_into(LoopCore loop not None, sock, buffer):
    """Number of bytes, or None: nothing there yet. Raises what sock.recv_into() raises."""
    cdef int fd = sock.fileno()
    cdef ssize_t got
    cdef Py_buffer view
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    except (BufferError, TypeError):
        return call(sock.recv_into, buffer)
    try:
        while True:
            got = c_recv(fd, view.buf, view.len, MSG_DONTWAIT)
            count_received(&loop.context.counters, got)
            if got >= 0:
                return got
            if errno == EAGAIN:
                return None
            if errno != EINTR:
                raise os_error(errno)
    finally:
        PyBuffer_Release(&view)


def send(LoopCore loop not None, sock, data, Py_ssize_t offset):
    """Number of bytes of data[offset:] that were taken, or None: no room yet. Raises what sock.send() raises."""
    cdef int fd = sock.fileno()
    cdef ssize_t sent
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        while True:
            sent = c_send(fd, <char *>view.buf + offset, view.len - offset, MSG_DONTWAIT | MSG_NOSIGNAL)
            count_sent(&loop.context.counters, sent)
            if sent >= 0:
                return sent
            if errno == EAGAIN:
                return None
            if errno != EINTR:
                raise os_error(errno)
    finally:
        PyBuffer_Release(&view)


def call(method, *args):
    """method(*args), or None where it would block."""
    try:
        return method(*args)
    except (BlockingIOError, InterruptedError):
        return None


cdef class SockWaiter(Runnable):
    """`await` it once: it ends when the socket is readable (or writable). stop() afterwards, whatever happened.

    It only tells; the system call is the caller's. So who is cancelled meanwhile has taken nothing from the socket.
    """

    def __init__(self, LoopCore loop not None, int fd, bint write):
        self.context = loop.context
        self.fd = fd
        self.write = write
        self.future = loop.create_future()
        self.context.set_half(fd, write, self, True)  # a socket that a system call has just been made on
        self.waiting = True

    def __await__(self):
        return self.future.__await__()

    cdef int run(self) except -1:
        self.stop()
        if self.future.done():
            return 0
        self.future.set_result(None)
        return 1

    def stop(self):
        if self.waiting:
            self.waiting = False
            self.context.remove_half(self.fd, self.write, not self.write)

    def cancel(self):
        """Somebody else has set a callback for this socket: that one is told from now on, as in asyncio."""
        self.waiting = False
