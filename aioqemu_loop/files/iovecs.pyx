"""Memory that the kernel reads or writes: buffers of the caller's, held still, and aligned buffers of our own."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign


cdef class Memory:
    """Memory(buffers, writable): the memory of bytes-like objects, none of which can change its size while this lives.

    Raises TypeError or BufferError as memoryview() does.
    """

    def __init__(self, list buffers not None, bint writable):
        cdef int i
        cdef int flags = PyBUF_WRITABLE if writable else PyBUF_SIMPLE
        self.views = <Py_buffer *>PyMem_Calloc(len(buffers) or 1, sizeof(Py_buffer))
        self.parts = <iovec *>PyMem_Calloc(len(buffers) or 1, sizeof(iovec))
        if self.views == NULL or self.parts == NULL:
            raise MemoryError
        for i in range(<int>len(buffers)):
            PyObject_GetBuffer(buffers[i], &self.views[i], flags)
            self.count = i + 1
            self.parts[i].iov_base = self.views[i].buf
            self.parts[i].iov_len = self.views[i].len
            self.size += self.views[i].len

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)
        PyMem_Free(self.parts)

    cdef char *address(self) noexcept:
        """Of the first buffer."""
        return <char *>self.parts[0].iov_base


cdef class AlignedMemory:
    """`size` bytes at a multiple of `alignment`."""

    def __init__(self, Py_ssize_t size, size_t alignment):
        cdef void *data = NULL
        if posix_memalign(&data, alignment, size or 1) != 0:
            raise MemoryError
        self.data = <char *>data
        self.size = size

    def __dealloc__(self):
        free(self.data)
