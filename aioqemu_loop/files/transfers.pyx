"""Bytes to and from files: reads, writes, and when they are durable.

Invariant: whatever happens to the awaiting task, no memory is given back while the kernel or a thread is at it. A cancelled
read at the file's position leaves that where it was.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, EINVAL, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport SEEK_CUR, SEEK_END, SEEK_SET, fdatasync, fsync, lseek

from aioqemu_loop.files.kinds cimport APPEND, DIRECT, IN_MEMORY, LOCAL, NO_TRY_READ, NO_TRY_WRITE, NONBLOCK, REGULAR, examine
from aioqemu_loop.files.iovecs cimport AlignedMemory, Memory, iovec
from aioqemu_loop.files.ways cimport Job, Ways, raise_for
from aioqemu_loop.loop.operation cimport Operation, new_operation
from aioqemu_loop.system.libc cimport ECANCELED
from aioqemu_loop.uring.abi cimport (
    AIO_FSYNC_DATASYNC,
    AIO_OP_FSYNC,
    AIO_OP_READ,
    AIO_OP_READV,
    AIO_OP_WRITE,
    AIO_OP_WRITEV,
)

import asyncio
import os

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <limits.h>
    #include <sys/uio.h>
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 8
    #endif
    #ifndef __GLIBC__
    /* musl has these from 1.2.5 only. The offset's upper half is a zero on machines of 64 bits, which ignore it. */
    #include <sys/syscall.h>
    #include <unistd.h>
    #define preadv2(fd, parts, count, offset, flags) syscall(SYS_preadv2, fd, parts, count, (long)(offset), 0L, flags)
    #define pwritev2(fd, parts, count, offset, flags) syscall(SYS_pwritev2, fd, parts, count, (long)(offset), 0L, flags)
    #endif
    """
    enum:
        PIPE_BUF
        RWF_NOWAIT
    ssize_t preadv2(int fd, const iovec *parts, int count, int64_t offset, int flags) nogil
    ssize_t pwritev2(int fd, const iovec *parts, int count, int64_t offset, int flags) nogil

# The most that is moved at once. From the cache it takes 20 to 200 us, in which the loop waits (measured).
cdef Py_ssize_t PIECE = 256 * 1024
# The most that one operation of the ring or of a thread moves, where nothing is tried at once: the loop does not wait for it.
cdef Py_ssize_t SLOW_PIECE = 1024 * 1024
# But for what is appended, up to about what one system call moves.
cdef Py_ssize_t APPENDED = 1 << 30
# What O_DIRECT asks of addresses at the most: a page.
cdef size_t ALIGNMENT = 4096


cdef class Part(AlignedMemory):
    """A place in memory as an iovec; `owner` keeps it. With `data`: an aligned place of its own, for bytes that belong to `home`."""

    cdef int copy_in(self) except -1:
        if self.data != NULL:
            memcpy(self.data, self.home, self.part.iov_len)
        return 0

    cdef int copy_out(self, Py_ssize_t size) except -1:
        if self.data != NULL and size > 0:
            memcpy(self.home, self.data, size)
        return 0


cdef Part make_part(char *address, Py_ssize_t size, object owner, bint aligned):
    cdef Part part
    if aligned and <size_t>address % ALIGNMENT:
        part = Part(size, ALIGNMENT)
        part.part.iov_base = part.data
    else:
        part = Part.__new__(Part)
        part.part.iov_base = address
    part.part.iov_len = size
    part.home = address
    part.owner = owner
    return part


cdef ssize_t move(bint write, int fd, const iovec *parts, int count, int64_t offset, int flags) noexcept nogil:
    """preadv2 or pwritev2: bytes, or -errno."""
    cdef ssize_t ret
    while True:
        ret = pwritev2(fd, parts, count, offset, flags) if write else preadv2(fd, parts, count, offset, flags)
        if ret >= 0:
            return ret
        if errno != EINTR:
            return -errno


def move_in_thread(bint write, int fd, size_t parts, int count, int64_t offset, memory):
    """Blocks, without the GIL. `memory` owns what the iovecs at `parts` point to."""
    cdef ssize_t ret
    with nogil:
        ret = move(write, fd, <const iovec *>parts, count, offset, 0)
    return ret


def write_and_sync_in_thread(int fd, size_t address, size_t size, bint data_only, memory):
    """Blocks, without the GIL: a write at the position and, if it was whole, a sync. Bytes written or -errno, and 0 or -errno of
    the sync. `memory` owns what is at `address`."""
    cdef iovec part
    cdef ssize_t ret
    cdef int error = 0
    part.iov_base = <void *>address
    part.iov_len = size
    with nogil:
        ret = move(True, fd, &part, 1, -1, 0)
        if ret == <ssize_t>size and (fdatasync(fd) if data_only else fsync(fd)) < 0:
            error = -errno
    return ret, error


cdef inline bint may_try(int kind, bint write) noexcept:
    """Whether a transfer may be tried at once, with try_flags(). An O_DIRECT one waits for the device, RWF_NOWAIT or not."""
    if kind & (IN_MEMORY | NONBLOCK):
        return True
    return not kind & (DIRECT | (NO_TRY_WRITE if write else NO_TRY_READ))


cdef inline int try_flags(int kind) noexcept:
    return 0 if kind & (IN_MEMORY | NONBLOCK) else RWF_NOWAIT


cdef inline bint would_wait(Py_ssize_t ret, int kind) noexcept:
    return (ret == -EAGAIN and not kind & NONBLOCK) or ret == -EOPNOTSUPP


cdef object own_cut(PyObject *data, Py_ssize_t size, Py_ssize_t count):
    """New bytes, whose only reference is ours, without what was not read."""
    if count != size:
        _PyBytes_Resize(&data, count)
    result = <object>data
    Py_DECREF(result)
    return result


cdef object cut_to(list holder, Py_ssize_t count):
    """The bytes in the holder, without what was not read, and without copying the rest."""
    data = holder.pop()
    cdef PyObject *alone = <PyObject *>data
    if Py_REFCNT(data) != 1:
        return data[:count]
    Py_INCREF(data)
    cdef Py_ssize_t size = len(data)
    data = None
    return own_cut(alone, size, count)


cdef class Transfers(Ways):
    """offset -1: at the file's position, which moves. Every method raises OSError with what the kernel says."""

    def __init__(self, loop):
        super().__init__(loop)
        self.kinds = {}

    def adopt(self, int fd):
        """A file that open() did not open will be used for some time."""
        self.kinds[fd] = examine(fd)

    cdef int kind_of(self, int fd) except -1:
        kind = self.kinds.get(fd)
        return examine(fd) if kind is None or not kind & REGULAR else kind

    cdef int note(self, int fd, int kind) except -1:
        if fd in self.kinds:
            self.kinds[fd] = kind
        return kind

    cdef object read_now(self, int fd, Py_ssize_t size, int64_t offset, int kind):
        """The bytes, or None where they are not to be had at once."""
        cdef iovec part
        cdef PyObject *data
        cdef ssize_t ret
        data = new_bytes(NULL, size)
        part.iov_base = PyBytes_AS_STRING(<object>data)
        part.iov_len = size
        ret = move(False, fd, &part, 1, offset, try_flags(kind))
        if ret < 0:
            Py_XDECREF(data)
            if ret == -EOPNOTSUPP:
                self.note(fd, kind | NO_TRY_READ)
            elif not would_wait(ret, kind):
                raise_for(ret)
            return None
        return own_cut(data, size, ret)

    cpdef object rest_now(self, int fd):
        """From the position to the end of a file of a local file system; None where that is not to be had at once, and nothing
        has been read."""
        cdef int kind = self.kind_of(fd)
        cdef struct_stat st
        cdef int64_t position, left
        if not (kind & REGULAR and kind & LOCAL and may_try(kind, False)) or self.spent() or fstat(fd, &st) < 0:
            return None
        position = lseek(fd, 0, SEEK_CUR)
        left = st.st_size - position
        if not 0 < left < PIECE:
            return None
        # One byte more, to see that this is the end.
        data = self.read_now(fd, left + 1, -1, kind)
        if data is not None and len(data) != left:  # it has grown or shrunk, or only a part is cached
            lseek(fd, position, SEEK_SET)
            return None
        return data

    async def read(self, int fd, Py_ssize_t size, int64_t offset=-1):
        """Up to `size` bytes; b"" at the end. Fewer come at the end, from pipes, and from what is cached in part."""
        cdef int kind
        if size < 0:
            raise_for(-EINVAL)
        kind = self.kind_of(fd)
        if size <= PIECE and may_try(kind, False):
            if self.spent():
                await self.another_turn()
            data = self.read_now(fd, size, offset, kind)
            if data is not None:
                return data
        # In a list, so that nobody else holds it when it is cut.
        cdef list holder = [PyBytes_FromStringAndSize(NULL, size)]
        count = await self.transfer(False, fd, <size_t>PyBytes_AS_STRING(holder[0]), size, offset, holder)
        return cut_to(holder, count)

    async def readinto(self, int fd, buffer, int64_t offset=-1):
        """Number of bytes; 0 at the end. A file of a local file system is read until the buffer is full."""
        cdef Memory memory = Memory([buffer], True)
        return await self.transfer(False, fd, <size_t>memory.address(), memory.size, offset, memory)

    async def write(self, int fd, data, int64_t offset=-1):
        """Number of bytes written: fewer than there are where the kernel stops in the middle. A CancelledError has the number
        as its attribute `done`."""
        cdef Memory memory = Memory([data], False)
        return await self.transfer(True, fd, <size_t>memory.address(), memory.size, offset, memory)

    def readv(self, int fd, buffers, int64_t offset):
        """To be awaited: number of bytes read into the buffers, one after the other, by one preadv(2)."""
        return self.vector(False, fd, Memory(list(buffers), True), offset)

    def writev(self, int fd, buffers, int64_t offset):
        """To be awaited: number of bytes written from the buffers, one after the other, by one pwritev(2)."""
        return self.vector(True, fd, Memory(list(buffers), False), offset)

    cdef int place(self, int fd, int64_t position, int kind) except -1:
        """Move the file's position to where a transfer at it ended."""
        lseek(fd, 0 if kind & APPEND else position, SEEK_END if kind & APPEND else SEEK_SET)
        return 0

    async def transfer(self, bint write, int fd, size_t address, Py_ssize_t size, int64_t offset, object owner):
        """In pieces. Raises only where nothing was moved."""
        cdef int kind = self.kind_of(fd)
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t ret, piece
        cdef Part part
        try:
            while True:
                # What is appended is not cut: others' records must not come between.
                piece = min(
                    size - done,
                    APPENDED if write and kind & APPEND else PIECE if may_try(kind, write) else SLOW_PIECE,
                )
                part = make_part(<char *>address + done, piece, owner, kind & DIRECT)
                ret = -EOPNOTSUPP
                if may_try(kind, write) and piece <= PIECE:
                    if self.spent():
                        await self.another_turn()
                    ret = move(write, fd, &part.part, 1, offset, try_flags(kind))
                    if ret == -EOPNOTSUPP and try_flags(kind):
                        kind = self.note(fd, kind | (NO_TRY_WRITE if write else NO_TRY_READ))
                        continue  # with larger pieces
                if would_wait(ret, kind):
                    ret = await self.move_slowly(write, fd, part, offset, kind)
                if ret < 0:
                    if done == 0:
                        raise_for(ret)
                    break
                done += ret
                if offset >= 0:
                    offset += ret
                # Elsewhere (pipes, /proc) there may be no more for now, and the next piece would wait.
                if ret == 0 or done == size or not kind & REGULAR or not kind & LOCAL:
                    break
        except asyncio.CancelledError as exc:
            if write:
                exc.done = done + getattr(exc, "done", 0)
            elif done and offset < 0 and kind & REGULAR:
                lseek(fd, -done, SEEK_CUR)
            raise
        return done

    async def move_slowly(self, bint write, int fd, Part part, int64_t offset, int kind):
        """One piece when it is ready, by the ring or by a thread: bytes, or -errno."""
        cdef Operation operation = None
        cdef Job job = None
        cdef Py_ssize_t ret = -ECANCELED
        cdef bint large = write and part.part.iov_len > <size_t>PIECE and not kind & DIRECT
        # io_uring does not keep the position of a regular file (measured: neither with O_DIRECT nor after a short write).
        cdef int64_t at = lseek(fd, 0, SEEK_CUR) if offset < 0 and kind & REGULAR else offset
        if write:
            part.copy_in()
        try:
            while not kind & REGULAR and await self.until_ready(fd, write):
                ret = move_when_ready(write, fd, &part.part, offset)
                if ret != -EAGAIN:
                    return ret
            # Large buffered writes are copying, which the kernel's worker does on one CPU: the others at once go to threads.
            if self.has_ring() and not (large and self.large_writes):
                operation = new_operation(self.core, AIO_OP_WRITE if write else AIO_OP_READ, fd, <size_t>part.part.iov_base,
                                          <uint32_t>part.part.iov_len, at, part)
                self.large_writes += large
                try:
                    ret = await operation
                finally:
                    self.large_writes -= large
                if ret > 0 and at != offset:
                    self.place(fd, at + ret, kind)
            if ret == -ECANCELED:
                job = self.start(move_in_thread, (write, fd, <size_t>&part.part, 1, offset, part))
                ret = await self.finish(job)
        except asyncio.CancelledError as exc:
            if job is not None:
                ret = getattr(exc, "result", None) or 0
                if ret > 0 and not write and at != offset:
                    lseek(fd, -ret, SEEK_CUR)
            else:
                ret = 0 if operation is None else operation.result
                if ret > 0 and write and at != offset:
                    self.place(fd, at + ret, kind)
            if write:
                exc.done = max(0, ret)
            raise
        if not write:
            part.copy_out(ret)
        return ret

    async def until_ready(self, int fd, bint write):
        """Returns when a pipe, socket or terminal can be read or written; False for what a loop cannot watch. So one who is
        cancelled has moved nothing, where a thread would."""
        cdef int twin
        future = self.loop.create_future()
        try:
            twin = os.dup(fd)  # the program may watch the other one
        except OSError:
            return False
        try:
            (self.loop.add_writer if write else self.loop.add_reader)(twin, tell, future)
        except OSError:
            os.close(twin)
            return False
        try:
            await future
        finally:
            (self.loop.remove_writer if write else self.loop.remove_reader)(twin)
            os.close(twin)
        return True

    async def vector(self, bint write, int fd, Memory memory, int64_t offset):
        cdef int kind = self.kind_of(fd)
        cdef Py_ssize_t ret = -EOPNOTSUPP
        if offset < 0:
            raise_for(-EINVAL)
        if may_try(kind, write) and memory.size <= PIECE:
            if self.spent():
                await self.another_turn()
            ret = move(write, fd, memory.parts, memory.count, offset, try_flags(kind))
            if ret == -EOPNOTSUPP:
                self.note(fd, kind | (NO_TRY_WRITE if write else NO_TRY_READ))
        if would_wait(ret, kind):
            ret = -ECANCELED
            if self.has_ring():
                ret = await new_operation(self.core, AIO_OP_WRITEV if write else AIO_OP_READV, fd, <size_t>memory.parts,
                                          memory.count, offset, memory)
            if ret == -ECANCELED:
                ret = await self.call(move_in_thread, write, fd, <size_t>memory.parts, memory.count, offset, memory)
        if ret < 0:
            raise_for(ret)
        return ret

    def syncs_by_thread(self, int fd):
        """Whether write_and_sync() spares a call: there is no ring, and both would go to threads."""
        cdef int kind = self.kind_of(fd)
        return not self.has_ring() and kind & REGULAR and not kind & (DIRECT | IN_MEMORY)

    async def write_and_sync(self, int fd, bytes data, bint data_only):
        """write() at the position, and fsync() or fdatasync(), by one call in a thread. Returns how many bytes were written, and
        whether they are on the device: not if it was a part only. A CancelledError has the number as its attribute `done`. An
        OSError of the sync has it too."""
        cdef Py_ssize_t ret
        cdef int error
        try:
            ret, error = await self.call(write_and_sync_in_thread, fd, <size_t>PyBytes_AS_STRING(data), len(data), data_only, data)
        except asyncio.CancelledError as exc:
            exc.done = max(0, (getattr(exc, "result", None) or (0, 0))[0])
            raise
        if ret < 0:
            raise_for(ret)
        if error:
            try:
                raise_for(error)
            except OSError as exc:
                exc.done = ret
                raise
        return ret, ret == len(data)

    async def fsync(self, int fd):
        """fsync(2): returns when the file's bytes and all that describes them are on the device."""
        await self.sync(fd, os.fsync, 0)

    async def fdatasync(self, int fd):
        """fdatasync(2): as fsync(), but for what is not needed to read the bytes, as times."""
        await self.sync(fd, os.fdatasync, AIO_FSYNC_DATASYNC)

    async def sync(self, int fd, function, int flags):
        cdef Operation operation
        cdef int ret = -ECANCELED
        if self.has_ring():
            operation = new_operation(self.core, AIO_OP_FSYNC, fd, 0, 0, 0, None)
            operation.sqe.op_flags = flags
            ret = await operation
        if ret == -ECANCELED:
            await self.call(function, fd)
        elif ret < 0:
            raise_for(ret)


cdef ssize_t move_when_ready(bint write, int fd, iovec *part, int64_t offset) noexcept nogil:
    """Bytes or -errno. Where RWF_NOWAIT is not supported (terminals; pipes before Linux 6.4) what is ready takes PIPE_BUF bytes."""
    cdef ssize_t ret = move(write, fd, part, 1, offset, RWF_NOWAIT)
    if ret == -EOPNOTSUPP:
        if write and part.iov_len > PIPE_BUF:
            part.iov_len = PIPE_BUF
        ret = move(write, fd, part, 1, offset, 0)
    return ret


def tell(future):
    if not future.done():
        future.set_result(None)


