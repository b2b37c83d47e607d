"""Single operations on files that do not block the loop.

Each goes the first of these ways that can do it:

1. At once, in the loop's thread, where that cannot wait for a device: reads with RWF_NOWAIT, which the kernel refuses (EAGAIN)
   where the bytes are not in the page cache; open and stat with RESOLVE_CACHED, refused where a name is not in the dentry
   cache; anything on tmpfs. Such an await does not suspend, but once BUDGET_NS of a turn were spent so.
2. By the loop's io_uring, where it has one: reads, writes, fsync. All of a turn's in one system call.
3. By the loop's default executor: a thread does the blocking call.

The ring has no advantage for names (open, unlink, ...): there the kernel, too, uses a thread, which costs as much as ours.

Invariant: whatever happens to the awaiting task, no memory is given back and no await ends while the kernel or a thread is
still at it; large transfers go in pieces of PIECE, so a cancelled one ends soon.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset
from posix.fcntl cimport F_GETFL, F_SETFL, O_CLOEXEC, O_CREAT, O_NONBLOCK, O_TRUNC, fcntl
from posix.stat cimport S_ISCHR, S_ISDIR, S_ISREG, fstat, struct_stat
from posix.types cimport mode_t
from posix.unistd cimport SEEK_CUR, lseek
from posix.unistd cimport close as close_fd

from aioqemu_loop.files.memory cimport AlignedMemory, Memory, iovec
from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.loop.operation cimport Operation, new_operation
from aioqemu_loop.system.libc cimport ECANCELED, clock_ns
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
import sys

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <sys/vfs.h>
    #include <unistd.h>
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 8
    #endif
    #ifndef SYS_openat2
    #define SYS_openat2 437
    #endif
    struct aio_open_how { uint64_t flags, mode, resolve; };
    /* 5.12: fails with EAGAIN where a name is not cached. */
    static inline int aio_open_cached(int dir_fd, const char *path, int flags) {
        struct aio_open_how how = {(uint32_t)flags, 0, 0x20 /* RESOLVE_CACHED */};
        int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
        return fd < 0 ? -errno : fd;
    }
    """
    enum:
        AT_FDCWD
        O_DIRECT
        O_NOFOLLOW
        O_PATH
        O_TMPFILE
        RWF_NOWAIT
    struct c_statfs "statfs":
        long f_type
    int fstatfs(int fd, c_statfs *buffer) nogil
    ssize_t preadv2(int fd, const iovec *parts, int count, int64_t offset, int flags) nogil
    ssize_t pwritev2(int fd, const iovec *parts, int count, int64_t offset, int flags) nogil
    int aio_open_cached(int dir_fd, const char *path, int flags) nogil

# What is done at once may take this much of a turn; then others get theirs.
cdef int64_t BUDGET_NS = 200_000
# The most that one transfer moves. Cached, it takes 20 to 200 us, in which the loop waits (measured).
cdef Py_ssize_t PIECE = 256 * 1024
# What O_DIRECT asks of addresses at the most: a page.
cdef size_t ALIGNMENT = 4096
# Closing a file that has no name left frees its blocks: 0.9 s for 1 GiB (measured). What is larger than this is closed by a thread.
cdef int64_t LARGE = 16 * 1024 * 1024

# f_type of statfs(2), <linux/magic.h>: where nothing waits for a device ...
cdef frozenset MEMORY_FILE_SYSTEMS = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs
# ... and where open, stat and close do not ask another machine or process.
cdef frozenset LOCAL_FILE_SYSTEMS = MEMORY_FILE_SYSTEMS | {
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # xfs
    0x9123683E,  # btrfs
    0xF2F52010,  # f2fs
    0x794C7630,  # overlayfs
    0x73717368,  # squashfs
    0xE0F5E1E2,  # erofs
    0x2FC12FC1,  # zfs
    0xCA451A4E,  # bcachefs
}

# What is known of an fd.
cdef enum:
    REGULAR = 1 << 0
    DIRECT = 1 << 1
    IN_MEMORY = 1 << 2
    LOCAL = 1 << 3
    QUICK_CLOSE = 1 << 4
    # RWF_NOWAIT is not supported there.
    NO_TRY_READ = 1 << 5
    NO_TRY_WRITE = 1 << 6
    # No regular file, and O_NONBLOCK.
    NONBLOCK = 1 << 7


cdef int examine(int fd) noexcept:
    """What is to be known; 0 for an fd that is not open: the operation itself will tell."""
    cdef struct_stat st
    cdef c_statfs fs
    cdef int kind = 0
    if fstat(fd, &st) < 0:
        return 0
    cdef int flags = fcntl(fd, F_GETFL)
    if S_ISREG(st.st_mode):
        kind |= REGULAR
        if flags & O_DIRECT:
            kind |= DIRECT
    elif flags & O_NONBLOCK:
        kind |= NONBLOCK
    if S_ISREG(st.st_mode) or S_ISDIR(st.st_mode):
        if fstatfs(fd, &fs) == 0:
            if fs.f_type in MEMORY_FILE_SYSTEMS:
                kind = kind & ~DIRECT | IN_MEMORY
            if fs.f_type in LOCAL_FILE_SYSTEMS:
                kind |= LOCAL | QUICK_CLOSE
    elif not S_ISCHR(st.st_mode):  # closing a terminal waits for its output
        kind |= QUICK_CLOSE
    return kind


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


cdef class Part(AlignedMemory):
    """A place in memory as an iovec; `owner` keeps it. Aligned: a place of its own, and where its bytes belong."""

    cdef iovec part
    cdef object owner
    cdef char *home

    cdef int copy_in(self) except -1:
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


cdef int raise_for(Py_ssize_t ret) except -1:
    raise OSError(<int>-ret, os.strerror(<int>-ret))


cdef class Job:
    """A call for a thread, which is not begun any more after `cancelled`."""

    cdef object function
    cdef tuple args
    cdef dict kwargs
    cdef bint cancelled

    def __call__(self):
        if not self.cancelled:
            return self.function(*self.args, **self.kwargs)


cdef class Engine:
    """Made by engine_of(). Every method raises OSError with what the kernel says; offset -1: at the file's position, which
    moves."""

    cdef readonly object loop
    cdef LoopCore core  # the same, if it is one of ours
    cdef dict kinds
    cdef bint in_turn
    cdef int64_t turn_ns
    cdef object turn_over

    def __init__(self, loop):
        self.loop = loop
        self.core = loop if isinstance(loop, LoopCore) else None
        self.kinds = {}
        self.turn_over = self.end_turn

    def end_turn(self):
        self.in_turn = False

    cdef bint spent(self) except -1:
        """Whether what is done at once has had its share of this turn."""
        if not self.in_turn:
            self.in_turn = True
            self.turn_ns = clock_ns()
            self.loop.call_soon(self.turn_over)
            return False
        return clock_ns() - self.turn_ns > BUDGET_NS

    # -- what an fd is --

    def adopt(self, int fd):
        """An fd that open() did not make will be used for some time."""
        self.kinds[fd] = examine(fd)

    cdef int kind_of(self, int fd) except -1:
        kind = self.kinds.get(fd)
        return examine(fd) if kind is None or not kind & REGULAR else kind

    cdef int note(self, int fd, int kind) except -1:
        if fd in self.kinds:
            self.kinds[fd] = kind
        return kind

    # -- bytes --

    cdef object read_now(self, int fd, Py_ssize_t size, int64_t offset):
        """The bytes, or None where they are not to be had at once."""
        cdef int kind = self.kind_of(fd)
        cdef iovec part
        cdef PyObject *data
        cdef ssize_t ret
        if not 0 <= size <= PIECE or not may_try(kind, False) or self.spent():
            return None
        data = new_bytes(NULL, size)
        part.iov_base = PyBytes_AS_STRING(<object>data)
        part.iov_len = size
        ret = move(False, fd, &part, 1, offset, try_flags(kind))
        if ret < 0:
            Py_XDECREF(data)
            if ret == -EOPNOTSUPP:
                self.note(fd, kind | NO_TRY_READ)
            elif ret != -EAGAIN:
                raise_for(ret)
            return None
        if ret != size:
            _PyBytes_Resize(&data, ret)
        result = <object>data
        Py_DECREF(result)
        return result

    async def read(self, int fd, Py_ssize_t size, int64_t offset=-1):
        """Up to `size` bytes; b"" at the end. Fewer come at the end, from pipes and the like, and from what is cached in part."""
        if size < 0:
            raise ValueError("size must not be negative")
        data = self.read_now(fd, size, offset)
        if data is not None:
            return data
        data = PyBytes_FromStringAndSize(NULL, size)
        count = await self.transfer(False, fd, <size_t>PyBytes_AS_STRING(data), size, offset, data)
        return data if count == size else data[:count]

    async def readinto(self, int fd, buffer, int64_t offset=-1):
        """Number of bytes; 0 at the end. A large regular file is read until the buffer is full."""
        cdef Memory memory = Memory([buffer], True)
        return await self.transfer(False, fd, <size_t>memory.address(), memory.size, offset, memory)

    async def write(self, int fd, data, int64_t offset=-1):
        """Number of bytes written: fewer than there are where the kernel stops in the middle."""
        cdef Memory memory = Memory([data], False)
        return await self.transfer(True, fd, <size_t>memory.address(), memory.size, offset, memory)

    async def readv(self, int fd, buffers, int64_t offset=-1):
        """Number of bytes read into the buffers, one after the other, by one preadv(2)."""
        cdef Memory memory = Memory(list(buffers), True)
        return await self.vector(False, fd, memory, offset)

    async def writev(self, int fd, buffers, int64_t offset=-1):
        """Number of bytes written from the buffers, one after the other, by one pwritev(2)."""
        cdef Memory memory = Memory(list(buffers), False)
        return await self.vector(True, fd, memory, offset)

    async def transfer(self, bint write, int fd, size_t address, Py_ssize_t size, int64_t offset, object owner):
        """In pieces. Raises only where nothing was moved."""
        cdef int kind = self.kind_of(fd)
        cdef Py_ssize_t done = 0
        cdef Py_ssize_t ret
        cdef Part part
        try:
            while True:
                part = make_part(<char *>address + done, min(size - done, PIECE), owner, kind & DIRECT)
                ret = -EAGAIN
                if may_try(kind, write):
                    if self.spent():
                        await asyncio.sleep(0)
                    ret = move(write, fd, &part.part, 1, offset, try_flags(kind))
                    if ret == -EOPNOTSUPP:
                        kind = self.note(fd, kind | (NO_TRY_WRITE if write else NO_TRY_READ))
                if (ret == -EAGAIN and not kind & NONBLOCK) or ret == -EOPNOTSUPP:
                    ret = await self.move_slowly(write, fd, part, offset, kind)
                if ret < 0:
                    if done == 0:
                        raise_for(ret)
                    break
                done += ret
                if offset >= 0:
                    offset += ret
                if ret == 0 or done == size or not kind & REGULAR:
                    break
        except asyncio.CancelledError:
            if done and not write and offset < 0 and kind & REGULAR:
                lseek(fd, -done, SEEK_CUR)
            raise
        return done

    async def move_slowly(self, bint write, int fd, Part part, int64_t offset, int kind):
        """One piece by the ring or a thread: bytes, or -errno."""
        cdef Operation operation = None
        cdef object outcome = None
        cdef Py_ssize_t ret = -ECANCELED
        if write and part.data != NULL:
            part.copy_in()
        try:
            if self.core is not None:
                operation = new_operation(self.core, AIO_OP_WRITE if write else AIO_OP_READ, fd, <size_t>part.part.iov_base,
                                          <int>part.part.iov_len, offset, part)
                outcome = operation.begin()
            if outcome is not None:
                ret = await outcome
            if outcome is None or ret == -ECANCELED:
                operation = None
                outcome = self.start(move_in_thread, write, fd, <size_t>&part.part, 1, offset, part)
                ret = await self.finish(outcome, kind)
        except asyncio.CancelledError:
            if not write and offset < 0 and kind & REGULAR:
                ret = operation.result if operation is not None else moved(outcome)
                if ret > 0:
                    lseek(fd, -ret, SEEK_CUR)
            raise
        if not write:
            part.copy_out(ret)
        return ret

    async def vector(self, bint write, int fd, Memory memory, int64_t offset):
        cdef int kind = self.kind_of(fd)
        cdef Py_ssize_t ret = -EAGAIN
        cdef Operation operation
        cdef object outcome = None
        if may_try(kind, write) and memory.size <= PIECE:
            if self.spent():
                await asyncio.sleep(0)
            ret = move(write, fd, memory.parts, memory.count, offset, try_flags(kind))
            if ret == -EOPNOTSUPP:
                self.note(fd, kind | (NO_TRY_WRITE if write else NO_TRY_READ))
        if (ret == -EAGAIN and not kind & NONBLOCK) or ret == -EOPNOTSUPP:
            ret = -ECANCELED
            if self.core is not None:
                operation = new_operation(self.core, AIO_OP_WRITEV if write else AIO_OP_READV, fd, <size_t>memory.parts,
                                          memory.count, offset, memory)
                outcome = operation.begin()
            if outcome is not None:
                ret = await outcome
            if ret == -ECANCELED:
                outcome = self.start(move_in_thread, write, fd, <size_t>memory.parts, memory.count, offset, memory)
                ret = await self.finish(outcome, kind)
        if ret < 0:
            raise_for(ret)
        return ret

    # -- what is durable --

    async def fsync(self, int fd):
        """fsync(2): returns when the file's bytes and all that describes them are on the device."""
        return await self.sync(fd, os.fsync, 0)

    async def fdatasync(self, int fd):
        """fdatasync(2): as fsync(), but for what is not needed to read the bytes, as times."""
        return await self.sync(fd, os.fdatasync, AIO_FSYNC_DATASYNC)

    async def sync(self, int fd, function, int flags):
        cdef Operation operation
        cdef object outcome
        cdef int ret
        if self.core is not None:
            operation = new_operation(self.core, AIO_OP_FSYNC, fd, 0, 0, 0, None)
            operation.sqe.op_flags = flags
            outcome = operation.begin()
            if outcome is not None:
                ret = await outcome
                if ret == 0:
                    return
                if ret != -ECANCELED:
                    raise_for(ret)
        await self.call(function, fd)

    # -- names --

    async def open(self, path, int flags, int mode=0o777, dir_fd=None):
        """An fd, as os.open() gives: close-on-exec. Raises OSError with the filename."""
        cdef int fd = -1
        if not flags & (O_CREAT | O_TRUNC | O_TMPFILE | O_PATH) and not self.spent():
            fd = self.open_now(path, flags, dir_fd)
        if fd < 0:
            fd = await self.call(os.open, path, flags, mode, dir_fd=dir_fd)
        self.adopt(fd)
        return fd

    cdef int open_now(self, path, int flags, dir_fd) except -2:
        """An fd, or -1 where that might have to wait. Regular files and directories of local file systems only: opening a
        FIFO waits for its other end, and has effects on that."""
        cdef int fd, place
        cdef struct_stat st
        fd = self.look_up(path, flags & O_NOFOLLOW, dir_fd)
        if fd < 0:
            return -1
        cdef bint plain = fstat(fd, &st) == 0 and (S_ISREG(st.st_mode) or S_ISDIR(st.st_mode)) and examine(fd) & LOCAL
        close_fd(fd)
        if not plain:
            return -1
        place = AT_FDCWD if dir_fd is None else dir_fd
        # O_NONBLOCK: rather fail than wait until somebody gives up a lease.
        fd = aio_open_cached(place, os.fsencode(path), flags | O_CLOEXEC | O_NONBLOCK)
        if fd < 0:
            return -1
        if not flags & O_NONBLOCK:
            fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
        sys.audit("open", path, None, flags | O_CLOEXEC)
        return fd

    cdef int look_up(self, path, int flags, dir_fd) except -2:
        """An O_PATH fd, or -1 where that might have to wait or fails. Raises FileNotFoundError where that is known."""
        cdef int place = AT_FDCWD if dir_fd is None else dir_fd
        if isinstance(path, int):
            return -1
        cdef bytes name = os.fsencode(path)
        if b"\0" in name:
            return -1
        cdef int fd = aio_open_cached(place, name, flags | O_PATH | O_CLOEXEC)
        if fd == -ENOENT:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), os.fspath(path))
        return fd if fd >= 0 else -1

    async def stat(self, path, dir_fd=None, bint follow_symlinks=True):
        """os.stat_result. `path` may be an fd. Raises OSError with the filename."""
        cdef int fd = -1
        if not self.spent():
            fd = self.look_up(path, 0 if follow_symlinks else O_NOFOLLOW, dir_fd)
        if fd >= 0:
            try:
                if examine(fd) & QUICK_CLOSE:
                    return os.fstat(fd)
            finally:
                close_fd(fd)
        elif isinstance(path, int) and examine(path) & QUICK_CLOSE and dir_fd is None and follow_symlinks:
            return os.fstat(path)
        return await self.call(os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    async def close(self, int fd):
        """close(2). Raises OSError; the fd is gone all the same."""
        cdef int kind = self.kind_of(fd)
        cdef struct_stat st
        self.kinds.pop(fd, None)
        cdef bint quick = kind & QUICK_CLOSE
        if quick and kind & REGULAR and fstat(fd, &st) == 0 and st.st_nlink == 0 and st.st_size > LARGE:
            quick = False
        if quick or kind == 0:
            os.close(fd)
        else:
            await self.call(os.close, fd)

    # -- anything else --

    async def call(self, function, *args, **kwargs):
        """function(*args, **kwargs) in the loop's default executor. Cancelling waits until the function is over, if it has begun."""
        return await self.finish(self.start_call(function, args, kwargs), REGULAR)

    cdef object start_call(self, function, tuple args, dict kwargs):
        cdef Job job = Job.__new__(Job)
        job.function = function
        job.args = args
        job.kwargs = kwargs
        future = self.loop.run_in_executor(None, job)
        return job, future

    def start(self, function, *args):
        return self.start_call(function, args, {})

    async def finish(self, started, int kind):
        """Await what start() began. Reading from what is no file (a terminal) may take for ever: that is left alone."""
        cdef Job job = started[0]
        future = started[1]
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            job.cancelled = True
            while kind & REGULAR and not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue
            raise


cdef inline bint may_try(int kind, bint write) noexcept:
    """Whether a transfer may be tried at once, with try_flags(). An O_DIRECT one waits for the device, RWF_NOWAIT or not."""
    if kind & (IN_MEMORY | NONBLOCK):
        return True
    return not kind & (DIRECT | (NO_TRY_WRITE if write else NO_TRY_READ))


cdef inline int try_flags(int kind) noexcept:
    return 0 if kind & (IN_MEMORY | NONBLOCK) else RWF_NOWAIT


cdef Py_ssize_t moved(started) except -1:
    """What a thread moved for an await that was cancelled."""
    future = started[1]
    if future.cancelled() or future.exception() is not None:
        return 0
    result = future.result()
    return 0 if result is None else max(0, result)


def engine_of(loop):
    """The Engine of an event loop, any asyncio loop, made at the first use."""
    engine = getattr(loop, "_aioqemu_files", None)
    if engine is None:
        engine = Engine(loop)
        try:
            loop._aioqemu_files = engine
        except AttributeError:  # a loop that takes no attributes gets a new one each time
            pass
    return engine
