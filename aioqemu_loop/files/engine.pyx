"""Single operations on files that do not block the loop.

Each goes the first of these ways that can do it:

1. At once, in the loop's thread, where that cannot wait for a device: reads with RWF_NOWAIT, which the kernel refuses (EAGAIN)
   where the bytes are not in the page cache; open and stat with RESOLVE_CACHED, refused where a name is not in the dentry
   cache; anything on tmpfs. Such an await does not suspend, but for a moment when BUDGET_NS of a turn were spent so.
2. By the loop's io_uring, where it has one: a turn's, 16 at a time, in one system call.
3. By the loop's default executor: a thread does the blocking call.

transfers.pyx has the bytes, this file the names. Whatever happens to the awaiting task, an await does not end while the
kernel or a thread is still at it.
"""

from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport strlen
from posix.fcntl cimport F_SETFL, O_CLOEXEC, O_CREAT, O_NONBLOCK, O_TRUNC, fcntl
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close as close_fd

from aioqemu_loop.files.kinds cimport LOCAL, QUICK_CLOSE, REGULAR, examine_as, facts_for
from aioqemu_loop.files.transfers cimport Transfers
from aioqemu_loop.files.ways cimport Job
from aioqemu_loop.loop.operation cimport Operation, new_operation
from aioqemu_loop.system.libc cimport ECANCELED
from aioqemu_loop.uring.abi cimport (
    AIO_OP_LINKAT,
    AIO_OP_MKDIRAT,
    AIO_OP_OPENAT,
    AIO_OP_RENAMEAT,
    AIO_OP_SYMLINKAT,
    AIO_OP_UNLINKAT,
    AIO_SQE_ASYNC,
)

import asyncio
import operator
import os
import sys

from aioqemu_loop.files.kinds import facts_in_thread
from aioqemu_loop.loop.operation import opened

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <unistd.h>
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
        AT_REMOVEDIR
        O_NOFOLLOW
        O_PATH
        O_TMPFILE
    int aio_open_cached(int dir_fd, const char *path, int flags) nogil

# Closing a file that has no name left frees its blocks: 0.9 s for 1 GiB (measured). What is larger than this is closed by a thread.
cdef int64_t LARGE = 16 * 1024 * 1024


cdef object encoded(path):
    """The path for the kernel, or None: os says what is wrong with it."""
    cdef bytes name
    try:
        name = PyUnicode_EncodeFSDefault(path if type(path) is str else os.fsdecode(path))
    except (TypeError, ValueError):
        return None
    return None if strlen(name) != <size_t>len(name) else name


cdef int look_up(bytes name, path, int flags, dir_fd) except -2:
    """An O_PATH fd, or -1 where that might have to wait, or fails. Raises FileNotFoundError where that is known."""
    cdef int fd = aio_open_cached(place_of(dir_fd), name, flags | O_PATH | O_CLOEXEC)
    if fd == -ENOENT:
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), os.fspath(path))
    return fd if fd >= 0 else -1


cdef int place_of(dir_fd) except? -1:
    return AT_FDCWD if dir_fd is None else operator.index(dir_fd)


cdef uint64_t address_of(bytes name) except 0:
    return <uint64_t><const char *>name


cdef int event_fd(int place):
    """As os tells audit hooks."""
    return -1 if place == AT_FDCWD else place


def close_lost(future):
    """A thread has opened a file for nobody."""
    if not future.cancelled() and future.exception() is None:
        close_fd(future.result())


cdef class Engine(Transfers):
    """Made by engine_of(). Every method raises OSError as the function of that name in `os` does, with the filename."""

    async def open(self, path, int flags, int mode=0o777, dir_fd=None):
        """An fd, as os.open() gives: close-on-exec."""
        cdef int fd = -1
        if not flags & (O_CREAT | O_TRUNC | O_TMPFILE | O_PATH):
            if self.spent():
                await self.another_turn()
            fd = self.try_open(path, flags, dir_fd, LOCAL)
        if fd < 0:
            fd = await self.open_slowly(path, flags | O_CLOEXEC, mode, dir_fd)
            self.adopt(fd)
        return fd

    def open_now(self, path, int flags):
        """Facts about a regular file of a local file system, opened as open() does; None where that might have to wait, and
        open() has to follow."""
        if flags & (O_CREAT | O_TRUNC | O_TMPFILE | O_PATH) or self.spent():
            return None
        cdef int fd = self.try_open(path, flags, None, LOCAL | REGULAR)
        if fd < 0:
            return None
        try:
            return facts_for(fd, self.kinds[fd])
        except OSError:
            self.close_now(fd)
            raise

    cdef int try_open(self, path, int flags, dir_fd, int wanted) except -2:
        """An fd, or -1 where that might have to wait. Regular files and directories of local file systems only: opening a
        FIFO waits for its other end, and has effects on that."""
        cdef int kind, fd
        cdef object name = encoded(path)
        if name is None:
            return -1
        fd = look_up(name, path, flags & O_NOFOLLOW, dir_fd)
        if fd < 0:
            return -1
        kind = examine_as(fd, flags)
        close_fd(fd)
        if kind & wanted != wanted:
            return -1
        sys.audit("open", path, None, flags | O_CLOEXEC)
        # O_NONBLOCK: rather fail than wait until somebody gives up a lease.
        fd = aio_open_cached(place_of(dir_fd), name, flags | O_CLOEXEC | O_NONBLOCK)
        if fd < 0:
            return -1
        if not flags & O_NONBLOCK:
            fcntl(fd, F_SETFL, flags)
        self.kinds[fd] = kind
        return fd

    async def open_slowly(self, path, int flags, int mode, dir_fd):
        cdef Operation operation
        cdef Job job
        cdef bytes name
        cdef int fd
        name = encoded(path) if self.has_ring() else None
        if name is not None:
            sys.audit("open", path, None, flags)
            operation = new_operation(self.core, AIO_OP_OPENAT, place_of(dir_fd), address_of(name), mode, 0, name)
            operation.sqe.op_flags = <uint32_t>flags
            # Else the kernel begins with O_NONBLOCK, which opens a FIFO without its other end (Linux 6.18).
            operation.sqe.flags = AIO_SQE_ASYNC
            fd = await opened(operation)
            if fd >= 0:
                return fd
            if fd != -ECANCELED:
                raise OSError(-fd, os.strerror(-fd), os.fspath(path))
        job = self.start(os.open, (path, flags, mode), {"dir_fd": dir_fd})
        future = job.future
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # Not waited for: opening a FIFO may take for ever.
            if job.begun:
                future.add_done_callback(close_lost)
            else:
                job.cancel(None)
            raise

    async def stat(self, path, dir_fd=None, bint follow_symlinks=True):
        """os.stat_result. `path` may be an fd."""
        cdef int fd = -1
        if isinstance(path, int):
            if self.kind_of(path) & QUICK_CLOSE and dir_fd is None and follow_symlinks:
                return os.fstat(path)
        else:
            if self.spent():
                await self.another_turn()
            name = encoded(path)
            if name is not None:
                fd = look_up(name, path, 0 if follow_symlinks else O_NOFOLLOW, dir_fd)
        if fd >= 0:
            try:
                if examine_as(fd, 0) & QUICK_CLOSE:
                    return os.fstat(fd)
            finally:
                close_fd(fd)
        return await self.call(os.stat, path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    async def facts(self, int fd):
        """Facts about an fd. What it is stays so; its size may change."""
        cdef int kind = self.kind_of(fd)
        if kind & QUICK_CLOSE:
            return facts_for(fd, kind)
        return await self.call(facts_in_thread, fd, kind)

    async def close(self, int fd):
        """close(2). The fd is gone also where this raises, or is cancelled."""
        if not self.close_now(fd):
            self.kinds.pop(fd, None)
            await self.call_surely(os.close, fd)

    cpdef bint close_now(self, int fd) except -1:
        """close(), if that does not have to wait; else False, and close() has to follow."""
        cdef struct_stat st
        cdef int kind = self.kind_of(fd)
        if kind != 0 and not kind & QUICK_CLOSE:
            return False
        if kind & REGULAR and fstat(fd, &st) == 0 and st.st_nlink == 0 and st.st_size > LARGE:
            return False
        self.kinds.pop(fd, None)
        os.close(fd)
        return True

    # -- directories --

    async def unlink(self, path, *, dir_fd=None):
        """os.unlink()."""
        await self.change(AIO_OP_UNLINKAT, 0, 0, "os.remove", os.unlink, path, dir_fd)

    async def rmdir(self, path, *, dir_fd=None):
        """os.rmdir()."""
        await self.change(AIO_OP_UNLINKAT, 0, AT_REMOVEDIR, "os.rmdir", os.rmdir, path, dir_fd)

    async def mkdir(self, path, int mode=0o777, *, dir_fd=None):
        """os.mkdir()."""
        await self.change(AIO_OP_MKDIRAT, mode, 0, "os.mkdir", os.mkdir, path, dir_fd)

    async def change(self, int opcode, int mode, int flags, event, function, path, dir_fd):
        """One entry of a directory."""
        cdef Operation operation
        cdef int ret = -ECANCELED
        cdef bytes name
        name = encoded(path) if self.has_ring() else None
        if name is not None:
            sys.audit(event, path, *((mode,) if opcode == AIO_OP_MKDIRAT else ()), event_fd(place_of(dir_fd)))
            operation = new_operation(self.core, opcode, place_of(dir_fd), address_of(name), mode, 0, name)
            operation.sqe.op_flags = <uint32_t>flags
            ret = await operation
        if ret == -ECANCELED or ret == -EINVAL:  # EINVAL: also of a kernel that does not know the operation
            arguments = (path, mode) if opcode == AIO_OP_MKDIRAT else (path,)
            await self.call(function, *arguments, dir_fd=dir_fd)
        elif ret < 0:
            raise OSError(-ret, os.strerror(-ret), os.fspath(path))

    async def rename(self, src, dst, *, src_dir_fd=None, dst_dir_fd=None):
        """os.rename(), which is os.replace() too."""
        if not await self.relate(AIO_OP_RENAMEAT, src, dst, place_of(src_dir_fd), place_of(dst_dir_fd), "os.rename"):
            await self.call(os.rename, src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    async def link(self, src, dst):
        """os.link(src, dst)."""
        if not await self.relate(AIO_OP_LINKAT, src, dst, AT_FDCWD, AT_FDCWD, "os.link"):
            await self.call(os.link, src, dst)

    async def symlink(self, src, dst, *, dir_fd=None):
        """os.symlink()."""
        if not await self.relate(AIO_OP_SYMLINKAT, src, dst, place_of(dir_fd), 0, "os.symlink"):
            await self.call(os.symlink, src, dst, dir_fd=dir_fd)

    async def relate(self, int opcode, src, dst, int place, int other_place, event):
        """Two names. False where the ring cannot do it."""
        cdef Operation operation
        cdef int ret
        cdef bytes name, other
        name = encoded(src) if self.has_ring() else None
        other = None if name is None else encoded(dst)
        if other is None:
            return False
        if opcode == AIO_OP_SYMLINKAT:
            sys.audit(event, src, dst, event_fd(place))
        else:
            sys.audit(event, src, dst, event_fd(place), event_fd(other_place))
        operation = new_operation(self.core, opcode, place, address_of(name), <uint32_t>other_place,
                                  <int64_t>address_of(other), (name, other))
        ret = await operation
        if ret == -ECANCELED or ret == -EINVAL:
            return False
        if ret < 0:
            raise OSError(-ret, os.strerror(-ret), os.fspath(src), None, os.fspath(dst))
        return True


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
