"""One operation of the loop's io_uring, awaited.

Cancelling only asks: the kernel uses the operation's memory until its last completion, so the await ends with that.
"""

from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as close_fd

from aioqemu_loop.fdmon.base cimport CqeHandler
from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.system.libc cimport ECANCELED
from aioqemu_loop.uring.abi cimport aio_sqe

import asyncio

cdef extern from *:
    """
    #include "aioqemu_loop/system/made_by_us.h"
    AIO_MADE_BY_US(operation)
    """
    void operation_made_by_us(PyTypeObject *type)


cdef class Operation(CqeHandler):
    """Prepare `sqe`, then await it: what the kernel returned, or -errno. -ECANCELED: it has not happened, the loop has no ring
    (any more). `result` is the same, also where the await was cancelled."""

    def __await__(self):
        # Plain futures: tasks deal with those faster than with what is derived from them.
        self.future = self.loop.create_future()
        if not self.loop.context.add_sqe(self):
            self.future = None
            self.result = -ECANCELED
            return -ECANCELED
        try:
            return (yield from self.future)
        except asyncio.CancelledError:
            if self.future is not None:
                self.loop.context.cancel_sqe(self)
            while self.future is not None:
                self.future = self.loop.create_future()
                try:
                    yield from self.future
                except asyncio.CancelledError:
                    pass  # asked already
            raise

    cdef int on_cqe(self, int result, uint32_t flags) except -1:
        future = self.future
        self.future = None
        self.result = result
        if not future.done():
            future.set_result(result)
        return 0


async def opened(Operation operation):
    """Await an operation that opens a file. Where this is cancelled and the file was opened all the same, it is closed."""
    try:
        return await operation
    except asyncio.CancelledError:
        if operation.result >= 0:
            close_fd(operation.result)
        raise


cdef Operation new_operation(LoopCore loop, int opcode, int fd, uint64_t address, uint32_t size, int64_t offset, object memory):
    """`memory` owns what `address` points to, and is kept until the end."""
    cdef Operation operation = Operation.__new__(Operation)
    cdef aio_sqe *sqe = &operation.sqe
    memset(sqe, 0, sizeof(aio_sqe))
    operation.loop = loop
    operation.memory = memory
    sqe.opcode = opcode
    sqe.fd = fd
    sqe.addr = address
    sqe.len = size
    sqe.off = <uint64_t>offset
    return operation


operation_made_by_us(<PyTypeObject *>Operation)
