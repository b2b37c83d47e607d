"""loop.uring: operations of the ring that asyncio has no name for."""

from libc.errno cimport EOPNOTSUPP
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.fcntl cimport O_CLOEXEC

from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.loop.operation cimport Operation, new_operation
from aioqemu_loop.system.libc cimport ECANCELED
from aioqemu_loop.uring.abi cimport (
    AIO_OP_FUTEX_WAIT,
    AIO_OP_FUTEX_WAKE,
    AIO_OP_OPENAT2,
    AIO_OP_SPLICE,
    AIO_OP_TEE,
    AIO_OP_WAITID,
    AIO_SQE_ASYNC,
)

import asyncio
import functools
import os

from aioqemu_loop.loop.operation import opened
from aioqemu_loop.uring.ring import supported_operations

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <fcntl.h>
    #include <signal.h>
    #include <stdint.h>
    struct aio_openat2_how { uint64_t flags, mode, resolve; };
    """
    enum:
        AT_FDCWD
    struct aio_openat2_how:
        uint64_t flags, mode, resolve
    ctypedef struct siginfo_t:
        int si_signo
        int si_code
        int si_pid
        unsigned si_uid
        int si_status

# <linux/futex.h>
cdef int FUTEX2_SIZE_U32 = 2
cdef uint64_t FUTEX_BITSET_MATCH_ANY = 0xFFFFFFFF

known_operations = functools.cache(supported_operations)


cdef class Place:
    """Memory of a fixed size that the kernel reads or fills, and what belongs to it."""

    cdef siginfo_t info
    cdef aio_openat2_how how
    cdef object owner


class RingOperations:
    """Operations that need io_uring. Every method raises OSError with what the kernel says, EOPNOTSUPP where it does not know the
    operation, and RuntimeError while the loop's monitor is another one. Cancelling ends the await with the operation.

    Nothing here blocks the loop, and what a turn asks for is submitted by one system call, or one for 16.
    """

    def __init__(self, LoopCore loop not None):
        self._loop = loop

    async def splice(self, int src, int dst, uint32_t count, *, offset_src=None, offset_dst=None, uint32_t flags=0):
        """Move up to `count` bytes from fd `src` to fd `dst`, one of which is a pipe, as os.splice() does: the number moved, 0 at the
        end. A CancelledError has the number as its attribute `done`."""
        cdef Operation operation = made(
            self._loop, AIO_OP_SPLICE, "5.7", dst, <uint64_t><int64_t>as_offset(offset_src), count, as_offset(offset_dst), None
        )
        operation.sqe.file_index = src
        operation.sqe.op_flags = flags
        return await moved(operation)

    async def tee(self, int src, int dst, uint32_t count, uint32_t flags=0):
        """Copy up to `count` bytes from one pipe to another without taking them: the number. As splice() otherwise."""
        cdef Operation operation = made(self._loop, AIO_OP_TEE, "5.8", dst, 0, count, 0, None)
        operation.sqe.file_index = src
        operation.sqe.op_flags = flags
        return await moved(operation)

    async def waitid(self, int idtype, int id, int options):
        """As os.waitid(): waits for a child without blocking; os.waitid_result, or None with os.WNOHANG where there is none."""
        cdef Place place = Place.__new__(Place)
        memset(&place.info, 0, sizeof(place.info))
        cdef Operation operation = made(
            self._loop, AIO_OP_WAITID, "6.7", id, 0, <uint32_t>idtype, <int64_t>&place.info, place
        )
        operation.sqe.file_index = options
        check(await operation)
        if place.info.si_pid == 0:
            return None
        return os.waitid_result(
            (place.info.si_pid, place.info.si_uid, place.info.si_signo, place.info.si_status, place.info.si_code)
        )

    async def futex_wait(self, buffer, uint32_t expected, Py_ssize_t offset=0):
        """Sleep until futex_wake() for the 32-bit word at buffer[offset:offset + 4], which may lie in memory that processes share
        (mmap, multiprocessing.shared_memory). Raises BlockingIOError where the word is not `expected`, ValueError where
        it is not inside the buffer or not aligned."""
        cdef const unsigned char[::1] view = memoryview(buffer).cast("B")
        cdef Operation operation = made(
            self._loop, AIO_OP_FUTEX_WAIT, "6.7", FUTEX2_SIZE_U32, word_at(view, offset), 0, expected, buffer
        )
        operation.sqe.addr3 = FUTEX_BITSET_MATCH_ANY
        check(await operation)

    async def futex_wake(self, buffer, uint32_t count=1, Py_ssize_t offset=0):
        """Wake up to `count` of those that futex_wait(), or futex(2) in any process, for this word: how many it were."""
        cdef const unsigned char[::1] view = memoryview(buffer).cast("B")
        cdef Operation operation = made(
            self._loop, AIO_OP_FUTEX_WAKE, "6.7", FUTEX2_SIZE_U32, word_at(view, offset), 0, count, buffer
        )
        operation.sqe.addr3 = FUTEX_BITSET_MATCH_ANY
        return check(await operation)

    async def openat2(self, path, uint64_t flags, uint64_t mode=0, *, uint64_t resolve=0, dir_fd=None):
        """openat2(2): an fd, close-on-exec. `resolve`: RESOLVE_BENEATH (8), RESOLVE_IN_ROOT (16), ... of <linux/openat2.h>, which keep a
        path that somebody else has chosen inside of `dir_fd`. OSErrors have the filename."""
        cdef bytes name = os.fsencode(path)
        if b"\0" in name:
            raise ValueError("embedded null byte")
        cdef Place place = Place.__new__(Place)
        place.owner = name
        place.how.flags = flags | O_CLOEXEC
        place.how.mode = mode
        place.how.resolve = resolve
        cdef Operation operation = made(
            self._loop, AIO_OP_OPENAT2, "5.6", AT_FDCWD if dir_fd is None else dir_fd, <uint64_t><const char *>name,
            sizeof(place.how), <int64_t>&place.how, place
        )
        # Else the kernel begins with O_NONBLOCK, which opens a FIFO without its other end (Linux 6.18).
        operation.sqe.flags = AIO_SQE_ASYNC
        return check(await opened(operation), os.fspath(path))


cdef Operation made(
    LoopCore loop, int opcode, str since, int fd, uint64_t address, uint32_t size, int64_t offset, object memory
):
    if not loop.context.monitor.has_ring:
        raise RuntimeError(f"loop.uring needs fdmon 'io_uring'; this loop uses {loop.context.fdmon!r}")
    if opcode not in known_operations():
        raise OSError(EOPNOTSUPP, f"io_uring operation {opcode} came with Linux {since}, this kernel does not have it")
    return new_operation(loop, opcode, fd, address, size, offset, memory)


async def moved(Operation operation):
    try:
        return check(await operation)
    except asyncio.CancelledError as exc:
        exc.done = max(0, operation.result)
        raise


def check(int result, filename=None):
    if result == -ECANCELED:
        raise RuntimeError("the loop has given up its ring")
    if result < 0:
        raise OSError(-result, os.strerror(-result), filename)
    return result


cdef int64_t as_offset(offset) except? -2:
    """None is the file's position, as in os.splice()."""
    if offset is None:
        return -1
    if offset < 0:
        raise ValueError("offset must not be negative")
    return offset


cdef uint64_t word_at(const unsigned char[::1] view, Py_ssize_t offset) except 0:
    if not 0 <= offset <= view.shape[0] - 4:
        raise ValueError("the word is not inside the buffer")
    cdef uint64_t address = <uint64_t>&view[0] + offset
    if address % 4:
        raise ValueError("the word is not aligned")
    return address
