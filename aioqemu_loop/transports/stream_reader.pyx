"""What a transport's bytes go through where the protocol is asyncio's StreamReaderProtocol over a StreamReader.

Their data_received() and feed_data(), without a Python call or a bytes object per chunk: the bytes go into the
reader's buffer, the one that waits is woken up, reading is paused above twice the limit. Only where both are asyncio's
own: subclasses, and classes or objects of which somebody has replaced a method, also meanwhile, are called as any protocol
is. The attributes used are the same from 3.10 to 3.15.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.method cimport PyMethod_Check, PyMethod_GET_FUNCTION
from cpython.object cimport PyObject
from libc.string cimport memcpy

from asyncio import streams

cdef object Protocol = streams.StreamReaderProtocol
cdef object Reader = streams.StreamReader
cdef object data_received = Protocol.data_received
cdef object feed_data = Reader.feed_data
cdef object wakeup_waiter = Reader._wakeup_waiter


cdef bint is_plain(object protocol) except -1:
    """Whether feed() does what protocol.data_received() would do. Asked once per connection; feed() itself looks for what is
    replaced later."""
    if type(protocol) is not Protocol or not is_own(protocol.data_received, data_received):
        return False
    reader = protocol._stream_reader
    return (
        type(reader) is Reader
        and is_own(reader.feed_data, feed_data)
        and is_own(reader._wakeup_waiter, wakeup_waiter)
    )


cdef bint is_own(object method, object function) except -1:
    """Whether neither the class nor the object has another method. Not asked by vars(), which makes the object a dict: up to
    3.12 the interpreter then finds each of its attributes by hash, instead of where it knows it to be."""
    return getattr(method, "__func__", None) is function


cdef inline bint is_method(object method, object function) noexcept:
    """is_own(), for each chunk."""
    return PyMethod_Check(method) and PyMethod_GET_FUNCTION(method) == <PyObject *>function


cdef int feed(object protocol, const char *data, Py_ssize_t size) except -1:
    """protocol.data_received(data[:size]) for an is_plain() protocol, with its exceptions."""
    cdef Py_ssize_t old
    if not is_method(protocol.data_received, data_received):
        protocol.data_received(PyBytes_FromStringAndSize(data, size))
        return 0
    reference = protocol._stream_reader_wr
    if reference is None:
        return 0
    reader = reference()
    if reader is None:  # dropped by its user, and with it what comes
        return 0
    buffer = reader._buffer
    if reader._eof or not PyByteArray_CheckExact(buffer) or not is_method(reader.feed_data, feed_data):
        reader.feed_data(PyBytes_FromStringAndSize(data, size))
        return 0
    old = PyByteArray_GET_SIZE(buffer)
    PyByteArray_Resize(buffer, old + size)
    memcpy(PyByteArray_AS_STRING(buffer) + old, data, size)
    waiter = reader._waiter
    if waiter is not None:
        reader._waiter = None
        if not waiter.cancelled():
            waiter.set_result(None)
    if old + size <= 2 * reader._limit or reader._paused:
        return 0
    transport = reader._transport
    if transport is not None:
        try:
            transport.pause_reading()
        except NotImplementedError:
            reader._transport = None
        else:
            reader._paused = True
    return 0
