from cpython.object cimport PyObject

from aioqemu_loop.transports.engine cimport iovec

cdef enum:
    INLINE_CHUNKS = 4


cdef class WriteQueue:
    cdef PyObject *inline_owners[INLINE_CHUNKS]
    cdef PyObject **owners
    cdef iovec inline_chunks[INLINE_CHUNKS]
    cdef iovec *chunks
    cdef Py_ssize_t capacity
    cdef Py_ssize_t head
    cdef Py_ssize_t count
    cdef Py_ssize_t size

    cdef int use_inline(self) noexcept
    cdef int append(self, bytes data, Py_ssize_t offset) except -1
    cdef int advance(self, Py_ssize_t sent) noexcept
    cdef int clear(self) noexcept
    cdef int join(self) except -1
    cdef object first(self)
    cdef int make_room(self) except -1
    cdef int drop_first(self) noexcept


cdef bytes bytes_of(object data)
