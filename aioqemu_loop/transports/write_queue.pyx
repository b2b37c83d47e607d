"""What a transport still has to send: an iovec array over bytes objects that are held, not copied."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcpy

import cython

from aioqemu_loop.transports.engine cimport iovec


@cython.final
cdef class WriteQueue:
    """chunks[head:head + count] are to be sent, `size` bytes together; owners[i] keeps chunks[i] alive. It holds nothing but
    bytes objects, so it is nothing for the garbage collector."""

    def __cinit__(self):
        self.use_inline()

    def __dealloc__(self):
        self.clear()

    cdef int use_inline(self) noexcept:
        self.chunks = self.inline_chunks
        self.owners = self.inline_owners
        self.capacity = INLINE_CHUNKS
        return 0

    cdef int append(self, bytes data, Py_ssize_t offset) except -1:
        """Queue data[offset:]."""
        cdef Py_ssize_t end = self.head + self.count
        if end == self.capacity:
            self.make_room()
            end = self.head + self.count
        Py_INCREF(data)
        self.owners[end] = <PyObject *>data
        self.chunks[end].iov_base = PyBytes_AS_STRING(data) + offset
        self.chunks[end].iov_len = PyBytes_GET_SIZE(data) - offset
        self.count += 1
        self.size += PyBytes_GET_SIZE(data) - offset
        return 0

    cdef int join(self) except -1:
        """Make one chunk of all."""
        cdef bytes data
        cdef char *where
        cdef Py_ssize_t i
        if self.count <= 1:
            return 0
        data = PyBytes_FromStringAndSize(NULL, self.size)
        where = PyBytes_AS_STRING(data)
        for i in range(self.head, self.head + self.count):
            memcpy(where, self.chunks[i].iov_base, self.chunks[i].iov_len)
            where += self.chunks[i].iov_len
        self.clear()
        return self.append(data, 0)

    cdef object first(self):
        """What keeps the first chunk alive."""
        return <object>self.owners[self.head]

    cdef int make_room(self) except -1:
        """Move what is left to the front of an array with at least as much room again."""
        cdef Py_ssize_t capacity = max(INLINE_CHUNKS, self.count * 2)
        cdef iovec *chunks = <iovec *>PyMem_Malloc(capacity * (sizeof(iovec) + sizeof(PyObject *)))
        cdef PyObject **owners
        if chunks == NULL:
            raise MemoryError
        owners = <PyObject **>(chunks + capacity)
        memcpy(chunks, self.chunks + self.head, self.count * sizeof(iovec))
        memcpy(owners, self.owners + self.head, self.count * sizeof(PyObject *))
        if self.chunks != self.inline_chunks:
            PyMem_Free(self.chunks)
        self.chunks = chunks
        self.owners = owners
        self.capacity = capacity
        self.head = 0
        return 0

    cdef int advance(self, Py_ssize_t sent) noexcept:
        """`sent` bytes from the front are gone."""
        self.size -= sent
        if self.size == 0:
            return self.clear()
        while sent >= <Py_ssize_t>self.chunks[self.head].iov_len:
            sent -= self.chunks[self.head].iov_len
            self.drop_first()
        self.chunks[self.head].iov_base = <char *>self.chunks[self.head].iov_base + sent
        self.chunks[self.head].iov_len -= sent
        return 0

    cdef int drop_first(self) noexcept:
        self.head += 1
        self.count -= 1
        Py_DECREF(<object>self.owners[self.head - 1])
        return 0

    cdef int clear(self) noexcept:
        while self.count:
            self.drop_first()
        self.head = self.size = 0
        if self.chunks != self.inline_chunks:  # a burst is over: give the memory back
            PyMem_Free(self.chunks)
            self.use_inline()
        return 0


cdef bytes bytes_of(object data):
    """A bytes object itself, a copy of any other buffer. Raises TypeError where it is none, BufferError where its memory is not
    contiguous: other transports send from where it is, and then cannot."""
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return data
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return PyBytes_FromStringAndSize(<char *>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
