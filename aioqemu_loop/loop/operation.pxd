from libc.stdint cimport int64_t, uint32_t, uint64_t

from aioqemu_loop.fdmon.base cimport CqeHandler
from aioqemu_loop.loop.core cimport LoopCore


cdef class Operation(CqeHandler):
    cdef LoopCore loop
    cdef object future  # who awaits it waits for this; None once it is over
    # What the kernel reads or writes lives in there.
    cdef object memory
    # What the kernel said, once it is over.
    cdef readonly int result


cdef Operation new_operation(LoopCore loop, int opcode, int fd, uint64_t address, uint32_t size, int64_t offset, object memory)
