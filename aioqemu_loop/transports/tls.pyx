"""TLS: a transport for the application and a protocol for the transport below it, in one object.

The ssl module's SSLObject sits between two memory buffers. What the transport below receives is written to `incoming`
and read from the SSLObject as text; text is written to the SSLObject and what that puts into `outgoing` is sent below.
Over a stream transport of ours no Python object stands between the socket and `incoming`; over any other one (TLS in
TLS, somebody else's) this is an ordinary asyncio.Protocol.

It behaves as asyncio's SSLProtocol of Python 3.14 does, on every Python. Where it does better, a comment says so.

States: waiting for the transport below -> handshake -> open -> flushing (close(), or the peer's end: text is left to
send) -> shutdown (close_notify exchanged) -> leaving (the transport below will be closed) -> over.
"""

from cpython.buffer cimport PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc

import ssl
import warnings
from asyncio import constants, exceptions, protocols, sslproto
from asyncio.log import logger

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.context.core cimport SCRATCH_ROOM, SCRATCH_SIZE
from aioqemu_loop.transports.base cimport water_marks
from aioqemu_loop.transports.stream cimport StreamTransport
from aioqemu_loop.transports.stream_reader cimport feed, is_plain
from aioqemu_loop.transports.tls_pipe cimport TLSPipe
from aioqemu_loop.transports.tls_writing cimport (
    FLUSHING,
    HANDSHAKE,
    LEAVING,
    OPEN,
    OVER,
    SHUTDOWN,
    WAITING,
    TLSWriting,
)

cdef object BufferedProtocol = protocols.BufferedProtocol
cdef tuple AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)
# asyncio's high-water mark (3.11 on); the low one is a quarter.
cdef Py_ssize_t READ_HIGH = 256 * 1024
cdef double HANDSHAKE_TIMEOUT = constants.SSL_HANDSHAKE_TIMEOUT
cdef double SHUTDOWN_TIMEOUT = getattr(constants, "SSL_SHUTDOWN_TIMEOUT", 30.0)  # 3.11

# Text lies in the scratch buffer. Between two records Python may collect garbage, and a finalizer that closes another
# connection may come here again; so may another thread's loop while OpenSSL works.
cdef bint text_taken = False

cdef enum:
    # Where in the context's scratch buffer text is put: behind what a stream transport may have read.
    TEXT_AT = SCRATCH_SIZE
    # asyncio gives a protocol up to so much at once, too.
    TEXT_MAX = SCRATCH_SIZE
    # Where what nobody wants is put; `tls_writing` uses what is between.
    WASTE_AT = 3 * SCRATCH_SIZE
    # The memory buffers keep the memory they once needed, so they are filled by so much at a time.
    BATCH = 64 * 1024


class SSLTransport(sslproto._SSLProtocolTransport):
    """What `transport.__class__` answers (see `base`)."""


cdef class TLSTransport(TLSWriting):
    """asyncio.Transport over TLS. `call_connection_made`: False where the protocol has had a transport before
    (start_tls); `writing_paused`: it was told to pause by that one, and waits for resume_writing()."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __cinit__(self, AioContext context not None, loop, protocol, sslcontext, waiter, *, server_side=False,
                  server_hostname=None, ssl_handshake_timeout=None, ssl_shutdown_timeout=None,
                  call_connection_made=True, writing_paused=False):
        self.closed = True  # nothing to warn of yet
        self.context = context
        self._loop = loop
        self.waiter = waiter
        self.handshake_timeout = positive("ssl_handshake_timeout", ssl_handshake_timeout, HANDSHAKE_TIMEOUT)
        self.shutdown_timeout = positive("ssl_shutdown_timeout", ssl_shutdown_timeout, SHUTDOWN_TIMEOUT)
        if not sslcontext:
            if server_side:
                raise ValueError("Server side SSL needs a valid SSLContext")
            sslcontext = ssl.create_default_context()
            if not server_hostname:
                sslcontext.check_hostname = False
        hostname = server_hostname if server_hostname and not server_side else None
        self.pipe = TLSPipe(sslcontext, server_side, hostname)
        self.extra = {"sslcontext": sslcontext}
        self.told = NOTHING if call_connection_made else MADE
        self._protocol_paused = writing_paused
        self.read_high = READ_HIGH
        self.read_low = READ_HIGH // 4
        self.set_protocol(protocol)

    @property
    def __class__(self):
        return SSLTransport

    @property
    def _ssl_protocol(self):
        return self

    @property
    def _transport(self):
        return self.below

    def __repr__(self):
        state = ("waiting", "handshake", "open", "flushing", "shutdown", "leaving", "closed")[self.state]
        return f"<{self.__class__.__name__} {state} over {self.below!r}>"

    def __del__(self):
        if not self.closed:
            self.closed = True
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    # -- protocol and extra information --

    def set_protocol(self, protocol):
        self.protocol = protocol
        self.buffered = isinstance(protocol, BufferedProtocol)
        self.plain_reader = is_plain(protocol)

    def get_protocol(self):
        return self.protocol

    def get_extra_info(self, name, default=None):
        if name in self.extra:
            return self.extra[name]
        if self.below is None:
            return default
        return self.below.get_extra_info(name, default)

    # -- told by the transport below --

    def attach(self, below):
        """Know the transport below, before it calls connection_made()."""
        self.below = below
        self.stream = <StreamTransport>below if isinstance(below, StreamTransport) else None
        self.closed = False

    def connection_made(self, transport):
        if self.state != WAITING:  # closed before it began
            return
        self.attach(transport)
        self.below_paused = getattr(transport, "_protocol_paused", False)
        if self._loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self.handshake_started = self._loop.time()
        self.state = HANDSHAKE
        self.set_timer(self.handshake_timeout, self._handshake_timed_out)
        self.do_handshake()

    def connection_lost(self, exc):
        self.queue.clear()
        self.lost_writes += 1
        self.closed = True
        if self.state != HANDSHAKE and self.told in (MADE, EOF_RECEIVED):
            self.told = LOST
            self._loop.call_soon(self.protocol.connection_lost, exc)
        self.state = OVER
        self.below = self.stream = self.protocol = None
        self.let_go()
        self.wake(exc)
        self.cancel_timer()

    def data_received(self, data):
        cdef bytes held = bytes(data)
        self.pipe.feed(held, len(held))
        self.advance()

    cdef int bytes_received(self, char *data, Py_ssize_t size) except -1:
        if self.state == OPEN and not self.buffered and not self.reading_paused:
            return self.read(data, size)
        self.pipe.feed(data, size)
        return self.advance()

    def eof_received(self):
        """The peer's end, without close_notify. Returns True to keep the transport below while something is left to do."""
        self.eof = True
        try:
            if self._loop.get_debug():
                logger.debug("%r received EOF", self)
            if self.state == HANDSHAKE:
                self.handshake_failed(ConnectionResetError())
            elif self.state == OPEN:
                self.state = FLUSHING
                if self.reading_paused:
                    return True
                self.do_flush()
            elif self.state == FLUSHING:
                self.do_flush()
            elif self.state == SHUTDOWN:
                self.do_shutdown()
        except Exception:
            self.below.close()
            raise
        return self.state == FLUSHING

    def pause_writing(self):
        self.below_paused = True

    def resume_writing(self):
        self.below_paused = False
        self.send_outgoing()
        if self.state == FLUSHING:
            self.do_flush()
        else:
            self.pump()

    cdef int advance(self) except -1:
        """Go on with what came."""
        if self.state == OPEN:
            self.read(NULL, 0)
        elif self.state == HANDSHAKE:
            self.do_handshake()
        elif self.state == FLUSHING:
            self.do_flush()
        elif self.state == SHUTDOWN:
            self.do_shutdown()
        return 0

    # -- handshake --

    cdef int do_handshake(self) except -1:
        try:
            self.pipe.ssl_object.do_handshake()
        except AGAIN:
            return self.send_outgoing()
        except ssl.SSLError as exc:
            return self.handshake_failed(exc)
        return self.handshake_done()

    cdef int handshake_failed(self, object exc) except -1:
        cdef bint certificate = isinstance(exc, ssl.CertificateError)
        self.cancel_timer()
        self.state = OVER
        self.fatal_error(exc, f"SSL handshake failed{' on verifying the certificate' if certificate else ''}")
        return self.wake(exc)

    cdef int handshake_done(self) except -1:
        try:
            peercert = self.pipe.ssl_object.getpeercert()
        except Exception as exc:
            return self.handshake_failed(exc)
        self.cancel_timer()
        self.pipe.handshake_done()
        self.state = OPEN
        if self.handshake_started is not None:
            logger.debug("%r: SSL handshake took %.1f ms", self, (self._loop.time() - self.handshake_started) * 1e3)
        self.extra["peercert"] = peercert
        self.extra["cipher"] = self.pipe.ssl_object.cipher()
        self.extra["compression"] = self.pipe.ssl_object.compression()
        self.extra["ssl_object"] = self.pipe.ssl_object
        if self.told == NOTHING:
            self.told = MADE
            self.protocol.connection_made(self)
        self.wake(None)
        if self._protocol_paused:
            self.flow_control()
        return self.read(NULL, 0)

    def _handshake_timed_out(self):
        if self.state == HANDSHAKE:
            self.fatal_error(ConnectionAbortedError(
                f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"
            ), "Fatal error on transport")

    cdef int wake(self, object exc) except -1:
        waiter = self.waiter
        self.waiter = None
        if waiter is None or waiter.cancelled():
            return 0
        if exc is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(exc)
        return 0

    cdef int set_timer(self, object seconds, object callback) except -1:
        self.timer = self._loop.call_later(seconds, callback)
        return 0

    cdef int cancel_timer(self) except -1:
        timer = self.timer
        self.timer = None
        if timer is not None:
            timer.cancel()
        return 0

    # -- reading --

    def is_reading(self):
        return not self.reading_paused

    def pause_reading(self):
        self.reading_paused = True

    def resume_reading(self):
        if self.reading_paused:
            self.reading_paused = False
            self._loop.call_soon(self._resumed)

    def _resumed(self):
        if self.state != HANDSHAKE:
            self.advance()

    cdef bint may_read(self) noexcept:
        return not self.reading_paused and not self.broken() and (self.state == OPEN or self.state == FLUSHING)

    cdef int read(self, char *data, Py_ssize_t size) except -1:
        """Give the protocol what can be decrypted. `data` has come and is not in `incoming` yet; it is used before the
        protocol is called, which may read into the same memory."""
        cdef bint more = True
        try:
            while more and self.may_read():
                if self.buffered:
                    more = self.read_buffered()
                else:
                    more = self.read_copied(data, size)
                size = 0
            if self.queue.size:
                self.pump()
            else:
                self.send_outgoing()  # session tickets, answers to key updates
            if self.reading_paused or self.below_reading_paused:
                self.control_reading()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    cdef bint read_copied(self, char *data, Py_ssize_t size) except -1:
        """One data_received(). Returns whether there may be more."""
        global text_taken
        cdef bint taken = text_taken
        cdef char *text = <char *>PyMem_Malloc(TEXT_MAX) if taken else self.context.read_scratch() + TEXT_AT
        cdef Py_ssize_t got = -1
        cdef Py_ssize_t total
        cdef bytes received = None
        if text == NULL:
            raise MemoryError
        text_taken = True  # it is in any case
        try:
            total = self.decrypt_all(data, size, text, &got)
            if not self.plain_reader:
                received = PyBytes_FromStringAndSize(text, total)
            elif total:
                feed(self.protocol, text, total)
        finally:
            if taken:
                PyMem_Free(text)
            else:
                text_taken = False
        if total and received is not None:
            self.protocol.data_received(received)
        if got == 0:
            self.on_close_notify()
        return total == TEXT_MAX and got != 0

    cdef Py_ssize_t decrypt_all(self, char *data, Py_ssize_t size, char *text, Py_ssize_t *got) except -1:
        """How much was put into `text`, which has room for TEXT_MAX. `got`: what decrypt() returned last."""
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t step
        while True:
            if size:
                step = min(size, BATCH)
                self.pipe.feed(data, step)
                data += step
                size -= step
            while total < TEXT_MAX:
                got[0] = self.pipe.decrypt(text + total, TEXT_MAX - total)
                if got[0] <= 0:
                    break
                total += got[0]
            if got[0] == 0 or not size or total == TEXT_MAX:
                break
        if size:
            self.pipe.feed(data, size)
        return total

    cdef bint read_buffered(self) except -1:
        """One buffer_updated(). Returns whether there may be more."""
        cdef Py_buffer view
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t got = -1
        cdef Py_ssize_t room
        if not self.pipe.has_text():
            return False
        buffer = self.protocol.get_buffer(self.pipe.incoming.pending)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            room = view.len
            if not room:
                raise RuntimeError("get_buffer() returned an empty buffer")
            while total < room:
                got = self.pipe.decrypt(<char *>view.buf + total, room - total)
                if got <= 0:
                    break
                total += got
        finally:
            PyBuffer_Release(&view)
        if total:
            self.protocol.buffer_updated(total)
        if got == 0:
            self.on_close_notify()
        return total == room and got != 0

    cdef int discard(self) except -1:
        """After close() nothing is given to the protocol, but the peer may have to be heard before it hears us."""
        cdef char *waste = self.context.read_scratch() + WASTE_AT
        try:
            while self.pipe.decrypt(waste, SCRATCH_ROOM - WASTE_AT) > 0:
                pass
            self.control_reading()
        except Exception as exc:
            self.fatal_error(exc, "Fatal error on SSL protocol")
        return 0

    cdef int on_close_notify(self) except -1:
        self.call_eof_received()
        return self.start_shutdown()

    cdef int call_eof_received(self) except -1:
        if self.told != MADE:
            return 0
        self.told = EOF_RECEIVED
        try:
            if self.protocol.eof_received():
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Error calling eof_received()")
        return 0

    cdef int control_reading(self) except -1:
        """Have the transport below pause while too much has not been read here."""
        cdef Py_ssize_t size = self.pipe.incoming.pending
        if self.below is None:
            return 0
        if size >= self.read_high and size > self.read_low:
            if not self.below_reading_paused:
                self.below_reading_paused = True
                self.below.pause_reading()
        elif size <= self.read_low and self.below_reading_paused:
            self.below_reading_paused = False
            self.below.resume_reading()
        return 0

    def set_read_buffer_limits(self, high=None, low=None):
        """How much may lie here undecrypted while reading is paused."""
        self.read_high, self.read_low = water_marks(high, low, READ_HIGH)
        self.control_reading()

    def get_read_buffer_limits(self):
        return (self.read_low, self.read_high)

    def get_read_buffer_size(self):
        return self.pipe.incoming.pending

    # -- closing --

    def is_closing(self):
        return self.closed or self.below is not None and self.below.is_closing()

    def close(self):
        """Send what is left and close_notify, and wait for the peer's for at most the shutdown timeout."""
        if not self.closed:
            self.closed = True
            self.start_shutdown()
            return
        self.closed_twice = True
        if self.state == OVER:
            self.let_go()

    def abort(self):
        self.pump()  # what was written before goes out if the transport below takes it, as if write() had sent it at once
        self.force_close(None)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int let_go(self) except -1:
        """Most protocols keep their transport, and that the SSLContext. As in asyncio close() after the end lets go."""
        self.pipe.let_go()
        if self.closed_twice:
            self.extra.clear()
        return 0

    cdef int start_shutdown(self) except -1:
        if self.state == WAITING or self.state == HANDSHAKE:
            return self.force_close(None)
        if self.state == OPEN:
            self.state = FLUSHING
        elif self.state != FLUSHING or self.timer is not None:  # else: the peer's end, and reading is paused
            return 0
        self.closed = True
        self.set_timer(self.shutdown_timeout, self._shutdown_timed_out)
        return self.do_flush()

    cdef int do_flush(self) except -1:
        """Go on to the shutdown once all output is sent. Output that waits for the peer, which has ended, is lost."""
        if self.closed:
            self.discard()
        else:
            self.read(NULL, 0)
        if self.state == FLUSHING:
            self.pump()
        if self.state != FLUSHING or self.broken():
            return 0
        if self.queue.size and (self.below_paused or not self.eof):
            if self.timer is None:
                self.set_timer(self.shutdown_timeout, self._shutdown_timed_out)
            return 0
        self.state = SHUTDOWN
        return self.do_shutdown()

    cdef int do_shutdown(self) except -1:
        if not self.eof:
            try:
                self.pipe.ssl_object.unwrap()
            except AGAIN:
                return self.send_outgoing()
            except ssl.SSLError as exc:
                return self.shutdown_done(exc)
        self.send_outgoing()
        self.call_eof_received()
        return self.shutdown_done(None)

    cdef int shutdown_done(self, object exc) except -1:
        self.cancel_timer()
        if self.state == SHUTDOWN:
            self.state = LEAVING
        if exc is not None:
            return self.fatal_error(exc, "Fatal error on transport")
        if self.below is not None:
            self._loop.call_soon(self.below.close)
        return 0

    def _shutdown_timed_out(self):
        if self.state == FLUSHING or self.state == SHUTDOWN:
            self.below._force_close(exceptions.TimeoutError("SSL shutdown timed out"))

    cdef int force_close(self, object exc) except -1:
        self.closed = True
        self.state = OVER
        if self.below is not None:
            self.below._force_close(exc)
        return 0


cdef object positive(str name, object seconds, double default):
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds
