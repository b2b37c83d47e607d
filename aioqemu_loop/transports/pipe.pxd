from aioqemu_loop.transports.base cimport BaseTransport
from aioqemu_loop.transports.writing cimport WritingTransport


cdef class ReadPipeTransport(BaseTransport):
    cdef int on_eof(self) except -1


cdef class WritePipeTransport(WritingTransport):
    cdef int dropped
