"""Output as a stream of bytes: what stream and write pipe transports have in common.

What the callbacks of one batch write is gathered and sent when the batch is over (ContextCore.flush_late), or at once when
it is much, when somebody asks how much is left, or when no callback of the loop is running. So headers and body written
one after the other leave in one system call. In a forked child nothing is sent: the parent has the queue as well, and the
connection.
"""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize
from cpython.object cimport PyTypeObject

import os
import sys
from asyncio import constants
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.system.errors cimport os_error
from aioqemu_loop.system.libc cimport EAGAIN, ECANCELED, EINTR
from aioqemu_loop.system.process cimport same_process
from aioqemu_loop.transports.base cimport FlowControlledTransport
from aioqemu_loop.transports.engine cimport iovec
from aioqemu_loop.transports.write_queue cimport WriteQueue, bytes_of

cdef extern from *:
    """
    #include "aioqemu_loop/system/made_by_us.h"
    AIO_MADE_BY_US(writing_transport)
    """
    void writing_transport_made_by_us(PyTypeObject *type)

# This much, or more than the high-water mark, is sent before the callback that writes it returns, so pause_writing()
# comes inside write() as in asyncio. Also asyncio's default high-water mark.
cdef Py_ssize_t GATHER_MAX = 64 * 1024
# sendmsg and writev take this many chunks at a time.
cdef Py_ssize_t IOV_MAX = os.sysconf("SC_IOV_MAX")
# Up to here copying is cheaper than a system call of its own.
cdef Py_ssize_t JOIN_MAX = 16 * 1024
cdef int LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
# asyncio's words.
cdef str BYTES_WANTED = (
    "a bytes, bytearray, or memoryview object" if sys.version_info >= (3, 14) else "a bytes-like object"
)


cdef int refuse_in_child(AioContext context) except -1:
    """RuntimeError in a forked child: what it writes would come between the parent's bytes, by TLS under used-up keys."""
    if not same_process(context.mark):
        context.check_open()
    return 0


cdef class WritingTransport(FlowControlledTransport):
    """Not for use by itself. `what` names the kind of transport in messages. `keeps_messages`: the file tells the other
    end what was written together, so nothing is gathered."""

    def __cinit__(self):
        self.queue = WriteQueue()

    def _repr_io(self):
        return [f"write=<{'polling' if self.blocked else 'idle'}, bufsize={self.queue.size}>"]

    cdef int refuse_write(self, str method) except -1:
        """Raise RuntimeError where writing is a mistake of the program."""
        return 0

    def write(self, data):
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be {BYTES_WANTED}, not {type(data).__name__!r}")
        refuse_in_child(self.context)
        self.refuse_write("write")
        if not data or not self.may_write():
            return
        self.queue_bytes(data)
        self.begin_sending()

    cdef bint may_gather(self) noexcept:
        return (
            self.context.dispatching
            and not self.keeps_messages
            and self.queue.size < GATHER_MAX
            and self.queue.size <= self.high_water
        )

    def writelines(self, list_of_data):
        refuse_in_child(self.context)
        self.refuse_write("writelines")
        # All of them first: a bad one must not leave those before it half queued.
        cdef list items = [bytes_of(data) for data in list_of_data]
        if not items or not self.may_write():
            return
        if self.keeps_messages:
            items = [b"".join(items)]
        for data in items:
            if data:
                self.queue_bytes(data)
        if self.queue.size:
            self.begin_sending()

    cdef int begin_sending(self) except -1:
        """Something was queued."""
        if self.blocked:
            return self.flow_control()
        if self.may_gather() and not self.context.sends_at_once(self):
            return self.context.add_flush(self)
        return self.send_queued()

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
        """By the context, when the callbacks have run."""
        if not self.gather():
            self.flush_now()
        return 0

    cdef int flush_now(self) except -1:
        if not self.blocked and not self._conn_lost and same_process(self.context.mark):
            self.send_queued()
        return 0

    cdef bint gather(self) except -1:
        """True where the output goes out with that of others. Nothing is to be done after it if it all goes."""
        cdef iovec *chunk
        if not self.context.gathering or self.blocked or self._conn_lost or self.closing or not self.queue.size:
            return False
        if self.sending or self.send_error:
            return False
        if self._protocol_paused or self.queue.size > JOIN_MAX and self.queue.count > 1:
            return False
        self.queue.join()
        chunk = self.queue.chunks + self.queue.head
        if not self.engine.send_later(self.queue.first(), chunk.iov_base, chunk.iov_len):
            return False
        self.sending = chunk.iov_len
        return True

    cdef bint sent(self, Py_ssize_t result) except -1:
        if result != self.sending:
            # What the next send() would say. An operation of the ring may be interrupted or cancelled: that is no error.
            self.send_error = -EAGAIN if result >= 0 or result in (-EINTR, -ECANCELED) else <int>result
        self.sending = 0
        if result > 0:
            self.queue.advance(result)
        if not self.queue.size:
            return False
        self.context.add_flush(self)
        return True

    cdef int send_queued(self) except -1:
        """Send what is queued; what the file does not take waits for writable()."""
        cdef Py_ssize_t sent
        cdef int count
        if self.sending:
            self.context.submit()
        while self.queue.size:
            count = 1 if self.keeps_messages else <int>min(self.queue.count, IOV_MAX)
            sent = self.send_error or self.engine.send(self.queue.chunks + self.queue.head, count)
            if sent < 0:
                if sent == -EAGAIN:
                    self.send_error = 0
                    break
                self.queue.clear()
                return self.fatal_error(os_error(<int>-sent), f"Fatal write error on {self.what}")
            self.queue.advance(sent)
        if self.queue.size and not self.blocked:
            self.blocked = True
            try:
                self.engine.write_on()
            except OSError as exc:
                self.queue.clear()
                return self.fatal_error(exc, f"Fatal error: {self.what} cannot be watched")
        self.flow_control()  # may write more
        if not self.queue.size:
            self.all_sent()
        return 0

    cdef int writable(self) except -1:
        cdef bint entered
        if self._conn_lost:
            return 0
        entered = self.enter_context()
        try:
            self.blocked = False
            self.send_queued()
            if not self.blocked and not self._conn_lost:
                self.engine.write_off()
        finally:
            self.leave_context(entered)
        return 0

    cdef int all_sent(self) except -1:
        """Nothing is left to send: do what waited for that."""
        if self.closing and not self._conn_lost:
            self._conn_lost += 1
            self.engine.detach()
            self._call_connection_lost(None)
        return 0

    cdef Py_ssize_t buffered_size(self) noexcept:
        return self.queue.size

    def get_write_buffer_size(self):
        """Bytes that the file has not taken."""
        self.flush_now()
        return self.queue.size

    def abort(self):
        self.flush_now()  # what was written before goes out if the file takes it, as if write() had sent it at once
        self.force_close(None)

    cdef int drop_output(self) except -1:
        if self.sending:
            self.context.submit()
        self.queue.clear()
        self.blocked = False
        return 0


writing_transport_made_by_us(<PyTypeObject *>WritingTransport)
