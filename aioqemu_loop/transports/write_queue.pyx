"""What a transport still has to send: an iovec array over bytes objects that are held, not copied."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy, memmove

import cython

from aioqemu_loop.transports.engine cimport iovec


@cython.final
cdef class WriteQueue:
    """chunks[head:head + count] are to be sent, `size` bytes together; owners[i] keeps chunks[i] alive."""

    def __cinit__(self):
        self.owners = []
        self.chunks = self.inline_chunks
        self.capacity = INLINE_CHUNKS

    def __dealloc__(self):
        if self.chunks != self.inline_chunks:
            PyMem_Free(self.chunks)

    cdef int append(self, bytes data, Py_ssize_t offset) except -1:
        """Queue data[offset:]."""
        cdef Py_ssize_t end = self.head + self.count
        if end == self.capacity:
            self.make_room()
            end = self.head + self.count
        self.owners.append(data)
        self.chunks[end].iov_base = PyBytes_AS_STRING(data) + offset
        self.chunks[end].iov_len = PyBytes_GET_SIZE(data) - offset
        self.count += 1
        self.size += PyBytes_GET_SIZE(data) - offset
        return 0

    cdef int make_room(self) except -1:
        cdef Py_ssize_t capacity
        cdef iovec *grown
        if self.head > self.capacity // 2:  # move what is left to the front
            memmove(self.chunks, self.chunks + self.head, self.count * sizeof(iovec))
            del self.owners[:self.head]
            self.head = 0
            return 0
        capacity = self.capacity * 2
        if self.chunks == self.inline_chunks:
            grown = <iovec *>PyMem_Malloc(capacity * sizeof(iovec))
            if grown != NULL:
                memcpy(grown, self.inline_chunks, self.capacity * sizeof(iovec))
        else:
            grown = <iovec *>PyMem_Realloc(self.chunks, capacity * sizeof(iovec))
        if grown == NULL:
            raise MemoryError
        self.chunks = grown
        self.capacity = capacity
        return 0

    cdef int advance(self, Py_ssize_t sent) except -1:
        """`sent` bytes from the front are gone."""
        self.size -= sent
        if self.size == 0:
            return self.clear()
        while sent >= <Py_ssize_t>self.chunks[self.head].iov_len:
            sent -= self.chunks[self.head].iov_len
            self.owners[self.head] = None
            self.head += 1
            self.count -= 1
        self.chunks[self.head].iov_base = <char *>self.chunks[self.head].iov_base + sent
        self.chunks[self.head].iov_len -= sent
        return 0

    cdef int clear(self) except -1:
        self.owners.clear()
        self.head = self.count = self.size = 0
        if self.capacity > INLINE_CHUNKS:
            PyMem_Free(self.chunks)
            self.chunks = self.inline_chunks
            self.capacity = INLINE_CHUNKS
        return 0
