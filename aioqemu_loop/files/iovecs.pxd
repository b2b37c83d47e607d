from cpython.buffer cimport Py_buffer

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef class Memory:
    cdef Py_buffer *views
    cdef iovec *parts
    cdef int count
    cdef readonly Py_ssize_t size

    cdef char *address(self) noexcept


cdef class AlignedMemory:
    cdef char *data
    cdef Py_ssize_t size
