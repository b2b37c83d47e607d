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


class Outcome(asyncio.Future):
    """The number that the kernel returned, or -errno. After cancel() it is cancelled, but not before the operation's end."""

    __slots__ = ("asked", "message", "operation")

    def cancel(self, msg=None):
        if self.done():
            return False
        self.asked = True
        self.message = msg
        (<Operation?>self.operation).loop.context.cancel_sqe(<Operation>self.operation)
        return True

    def end(self, result):
        self.operation = None
        if self.asked:
            super().cancel(self.message)
        else:
            self.set_result(result)


cdef class Operation(CqeHandler):
    """Prepare `sqe`, then await it: what the kernel returned, or -errno. -ECANCELED: it has not happened, the loop has no ring
    (any more). `result` is the same, also where the await was cancelled."""

    def __await__(self):
        future = Outcome(loop=self.loop)
        future.asked = False
        future.operation = self
        self.future = future
        if not self.loop.context.add_sqe(self):
            self.future = None
            self.result = -ECANCELED
            future.end(-ECANCELED)
        return future.__await__()

    cdef int on_cqe(self, int result, uint32_t flags) except -1:
        future = self.future
        self.future = None
        self.result = result
        if not future.done():
            future.end(result)
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
