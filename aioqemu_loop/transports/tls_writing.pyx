"""Output of the TLS transport: text is gathered as in `writing`, encrypted, and handed to the transport below.

Text waits unencrypted while the transport below has enough.
"""

from cpython.bytes cimport PyBytes_CheckExact
from cpython.object cimport PyTypeObject

from asyncio import constants, exceptions
from asyncio.log import logger

from aioqemu_loop.context.core cimport SCRATCH_SIZE
from aioqemu_loop.system.process cimport same_process
from aioqemu_loop.transports.base cimport tell_flow, water_marks
from aioqemu_loop.transports.stream cimport Layer, StreamTransport
from aioqemu_loop.transports.tls_pipe cimport TLSPipe
from aioqemu_loop.transports.write_queue cimport WriteQueue, bytes_of
from aioqemu_loop.transports.writing cimport refuse_in_child

cdef extern from *:
    """
    #include "aioqemu_loop/system/made_by_us.h"
    AIO_MADE_BY_US(tls_writing)
    """
    void tls_writing_made_by_us(PyTypeObject *type)

cdef int LOG_THRESHOLD = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
# asyncio's high-water mark for TLS (3.11 on); the low one is a quarter.
cdef Py_ssize_t WRITE_HIGH = 512 * 1024

cdef enum:
    # Where in the context's scratch buffer small pieces of text become one record: behind what is read.
    GATHERED_AT = 2 * SCRATCH_SIZE
    # The memory buffer keeps the memory it once needed, so it is filled by so much at a time.
    BATCH = 64 * 1024
    # As in `writing`: this much is encrypted and sent before write() returns.
    GATHER_MAX = 64 * 1024


cdef class TLSWriting(Layer):
    """Not for use by itself. `below` is None before and after the connection; `stream` is the same if it is ours."""

    def __cinit__(self):
        self.queue = WriteQueue()
        self.write_high = WRITE_HIGH
        self.write_low = WRITE_HIGH // 4

    cdef bint lost_write(self) except -1:
        """True once nothing can be written: it is dropped, with a warning from the fifth time."""
        if self.state == OPEN and not self.broken() or self.state == HANDSHAKE:
            return False
        if self.lost_writes >= LOG_THRESHOLD:
            logger.warning("SSL connection is closed")
        self.lost_writes += 1
        return True

    cdef bint broken(self) noexcept:
        """The connection has ended, and connection_lost() is on its way."""
        return self.stream is not None and self.stream._conn_lost != 0

    def write(self, data):
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        refuse_in_child(self.context)
        if not data or self.lost_write():
            return
        self.queue.append(bytes_of(data), 0)
        if self.state != OPEN or self.below_paused:
            self.flow_control()
        elif self.may_gather() and not self.context.sends_at_once(self):
            self.context.add_flush(self)
        else:
            self.pump()

    cdef bint may_gather(self) noexcept:
        return self.context.dispatching and self.queue.size < GATHER_MAX and self.queue.size < self.write_high

    def writelines(self, list_of_data):
        # All of them first: a bad one must not leave those before it half queued.
        cdef list items = [bytes_of(data) for data in list_of_data]
        refuse_in_child(self.context)
        if not items or self.lost_write():
            return
        for data in items:
            if data:
                self.queue.append(data, 0)
        if self.state == OPEN and not self.below_paused:
            self.pump()
        else:
            self.flow_control()

    cdef int flush(self) except -1:
        return self.pump()

    cdef int pump(self) except -1:
        """Encrypt and send what is queued, as long as the transport below takes it."""
        cdef Py_ssize_t room
        cdef Py_ssize_t count = 0
        cdef char *scratch
        if self.state != OPEN and self.state != FLUSHING or not same_process(self.context.mark):
            return 0
        scratch = self.context.read_scratch() + GATHERED_AT
        try:
            while self.queue.size and not self.below_paused and count >= 0:
                if self.broken():
                    self.queue.clear()
                    return 0
                room = BATCH
                while self.queue.size and room > 0:
                    count = self.pipe.encrypt(self.queue, room, scratch)
                    if count < 0:
                        break
                    room -= count
                self.send_outgoing()
            self.flow_control()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    cdef int send_outgoing(self) except -1:
        cdef bytes data
        cdef StreamTransport stream = self.stream  # a reference of our own: connection_lost() may come
        if self.below_paused or self.below is None or not same_process(self.context.mark):
            return 0
        data = self.pipe.take_outgoing()
        if not data:
            return 0
        if stream is not None:
            return stream.send_bytes(data)
        self.below.write(data)
        return 0

    cdef int flow_control(self) except -1:
        """As in asyncio `high` bytes are too many, not only more; but no bytes are never too many."""
        cdef Py_ssize_t size = self.queue.size
        if self.protocol is None:
            return 0
        if size >= self.write_high and size > self.write_low:
            if not self._protocol_paused:
                self._protocol_paused = True
                tell_flow(self.protocol, True, self, self._loop)
        elif size <= self.write_low and self._protocol_paused:
            self._protocol_paused = False
            tell_flow(self.protocol, False, self, self._loop)
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        self.write_high, self.write_low = water_marks(high, low, WRITE_HIGH)
        self.flow_control()

    def get_write_buffer_limits(self):
        return (self.write_low, self.write_high)

    def get_write_buffer_size(self):
        """Bytes that the transport below has not taken."""
        self.pump()
        return self.queue.size + <Py_ssize_t>self.pipe.outgoing.pending

    def write_eof(self):
        """TLS before 1.3 has no half-closed connections."""
        raise NotImplementedError

    def can_write_eof(self):
        return False

    def _test__append_write_backlog(self, data):
        """For CPython's own tests: output that nothing sends yet."""
        self.queue.append(bytes(data), 0)

    cdef int fatal_error(self, object exc, str message) except -1:
        """End with `exc`. Errors of the connection are nothing for the exception handler."""
        if self.below is not None:
            self.below._force_close(exc)
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        elif not isinstance(exc, exceptions.CancelledError):
            self._loop.call_exception_handler({
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self.protocol,
            })
        return 0


tls_writing_made_by_us(<PyTypeObject *>TLSWriting)
