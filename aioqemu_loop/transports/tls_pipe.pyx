"""The ssl module's SSLObject between two memory buffers, with as little around each call as can be.

What came from the peer is fed into `incoming` and decrypted from there; what is encrypted comes out of `outgoing`, as
do the answers of the TLS protocol itself.
"""

from cpython.buffer cimport Py_buffer, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

import ssl

import cython

from aioqemu_loop.transports.engine cimport iovec
from aioqemu_loop.transports.write_queue cimport WriteQueue

cdef tuple AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)

# RFC 8446, 5.1 and 5.2: type (1 byte), version (2), length (2); at most 2**14 bytes of text and 256 more, or, before TLS
# 1.3, 2048 more, which compression and such needed.
cdef enum:
    HEADER_SIZE = 5
    BODY_MAX = 16384 + 2048
    DATA_MAX = 16384 + 256
    # change_cipher_spec, alert, handshake, application_data, heartbeat
    FIRST_TYPE = 20
    DATA_TYPE = 23
    LAST_TYPE = 24


@cython.final
cdef class Window:
    """Memory of ours as a buffer for one call of the ssl module: no object is made, nothing is copied."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, self.readonly, flags)


cdef bint plausible(Framing *framing) noexcept:
    """Whether OpenSSL can have nothing against this header; else it is to see it at once, not when the rest has come.
    After the handshake TLS 1.2 and 1.3 have no other type and version for text."""
    cdef unsigned char *header = framing.header
    if framing.open:
        return header[0] == DATA_TYPE and header[1] == 3 and header[2] == 3 and framing.left <= DATA_MAX
    return FIRST_TYPE <= header[0] <= LAST_TYPE and header[1] == 3 and framing.left <= BODY_MAX


cdef int follow(Framing *framing, const char *data, Py_ssize_t size) noexcept:
    """Note that these bytes have come. `tail` is then how many came after the end of the last whole record, or -1 once
    there was a header that is not plausible."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t step
    if framing.tail < 0:
        return 0
    while at < size:
        if framing.left:
            step = min(framing.left, size - at)
            framing.left -= step
            framing.tail += step
            at += step
        else:
            framing.header[framing.have] = <unsigned char>data[at]
            framing.have += 1
            framing.tail += 1
            at += 1
            if framing.have < HEADER_SIZE:
                continue
            framing.have = 0
            framing.left = framing.header[3] << 8 | framing.header[4]
            if not plausible(framing):
                framing.tail = -1
                return 0
        if not framing.left:
            framing.tail = 0
    return 0


@cython.final
cdef class TLSPipe:
    """One SSLObject of `sslcontext`. Errors of TLS are the ssl module's exceptions."""

    def __cinit__(self, sslcontext, bint server_side, server_hostname):
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.ssl_object = sslcontext.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.foreign = foreign(self.ssl_object)
        methods = self.ssl_object if self.foreign else self.ssl_object._sslobj
        self.ssl_read = methods.read
        self.ssl_write = methods.write
        self.write_incoming = self.incoming.write
        self.read_outgoing = self.outgoing.read
        self.window = Window.__new__(Window)

    cdef int handshake_done(self) except -1:
        self.framing.open = True
        return 0

    cdef int feed(self, const char *data, Py_ssize_t size) except -1:
        """The peer has sent this."""
        self.window.data = <char *>data
        self.window.size = size
        self.window.readonly = True
        self.write_incoming(self.window)
        follow(&self.framing, data, size)
        return 0

    cdef bint has_text(self) except -1:
        """False where decrypt() would get nothing. OpenSSL says so by an exception, which takes 2 us: longer than a
        short record. It takes whole records from `incoming`, so what is behind the last one's end is no use yet."""
        return self.inside or <Py_ssize_t>self.incoming.pending > self.framing.tail

    cdef Py_ssize_t decrypt(self, char *where, Py_ssize_t room) except -2:
        """Text of one record: how much, 0 for close_notify, -1 where no more can be had."""
        cdef Py_ssize_t got
        cdef bytes text
        if not self.has_text():
            return -1
        self.inside = False
        try:
            if self.foreign:
                text = self.ssl_read(room)
                got = len(text)
                if got > room:
                    raise ValueError(f"read({room}) of {type(self.ssl_object).__name__} returned {got} bytes")
                memcpy(where, PyBytes_AS_STRING(text), got)
            else:
                self.window.data = where
                self.window.size = room
                self.window.readonly = False
                got = self.ssl_read(room, self.window)
        except AGAIN:
            return -1
        self.inside = got == room
        return got

    cdef Py_ssize_t encrypt(self, WriteQueue queue, Py_ssize_t most, char *scratch) except -2:
        """Take text from the queue: how much, or -1 where TLS has to hear from the peer first. Small pieces become one
        record; `scratch` has room for that."""
        cdef iovec *chunks = queue.chunks + queue.head
        cdef char *text = <char *>chunks[0].iov_base
        cdef Py_ssize_t size = min(<Py_ssize_t>chunks[0].iov_len, most)
        cdef Py_ssize_t step, i
        owner = <object>queue.owners[queue.head]  # whatever a callback inside OpenSSL does
        if queue.count > 1 and size < RECORD_SIZE:
            text = scratch
            size = 0
            for i in range(queue.count):
                step = min(<Py_ssize_t>chunks[i].iov_len, RECORD_SIZE - size)
                memcpy(text + size, chunks[i].iov_base, step)
                size += step
                if size == RECORD_SIZE:
                    break
        try:
            if self.foreign:
                size = self.ssl_write(PyBytes_FromStringAndSize(text, size))
            else:
                self.window.data = text
                self.window.size = size
                self.window.readonly = True
                size = self.ssl_write(self.window)
        except AGAIN:
            return -1
        queue.advance(size)
        return size

    cdef bytes take_outgoing(self):
        """What is to be sent to the peer."""
        return self.read_outgoing()

    cdef int let_go(self) except -1:
        """The connection is over: nothing is encrypted or decrypted any more."""
        self.ssl_object = self.ssl_read = self.ssl_write = None
        self.read_outgoing()
        return 0


cdef bint foreign(object ssl_object) except -1:
    """Whether a subclass has read() or write() of its own, which may keep what it is given. Otherwise those of the object
    inside are called: one Python frame less."""
    cdef object kind = type(ssl_object)
    return kind.read is not ssl.SSLObject.read or kind.write is not ssl.SSLObject.write
