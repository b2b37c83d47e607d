"""One io_uring: set-up, mapping, submission queue, completion queue.

Invariant: the queues are touched by one thread only, the one that called `enable`, and only in the process that made
the ring. The ring's memory is not inherited by children (MADV_DONTFORK): a child that wrote there would make the
parent submit it. Every entry checks for that.

Set-up asks for SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG | R_DISABLED and takes less where the kernel has less.
With DEFER_TASKRUN a completion is invisible until `io_uring_enter(GETEVENTS)`; TASKRUN_FLAG makes the kernel say so in
the SQ flags, which is what `has_events` reads. R_DISABLED leaves the choice of the owning thread to the first run.
"""

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close as close_fd

from aioqemu_loop.system.atomics cimport aio_fence, aio_load_acquire, aio_load_relaxed, aio_store_release
from aioqemu_loop.system.libc cimport EACCES, EBADF, EINVAL, ENOMEM, ENOSYS, EPERM, MADV_DONTFORK, clock_ns, madvise, raise_errno
from aioqemu_loop.system.process cimport process_mark, same_process
from aioqemu_loop.uring.abi cimport *

import time

from aioqemu_loop.system.process import forget_in_child

# Small first: rings are charged to RLIMIT_MEMLOCK per user (64 KiB holds one of 128/512). The CQ has room for four
# completions per submission, so that overflow is rare.
cdef uint32_t SQ_ENTRIES = 64
cdef uint32_t SQ_ENTRIES_MIN = 8
cdef uint32_t CQ_PER_SQ = 4
# Kernel threads of the owning thread's that wait for pipes and the like, where an operation cannot wait without one.
cdef uint32_t WORKERS_MAX = 128
# A closed ring gives its memory back late (10 to 40 ms, measured on 6.18). While one of ours was closed this recently
# ENOMEM is asked again.
cdef int64_t MEMORY_BACK_NS = 60_000_000
RETRY_AFTER_S = 0.01
cdef int64_t last_closed_ns = -MEMORY_BACK_NS

cdef tuple FLAG_SETS = (
    (AIO_SETUP_SINGLE_ISSUER | AIO_SETUP_DEFER_TASKRUN | AIO_SETUP_TASKRUN_FLAG | AIO_SETUP_R_DISABLED
     | AIO_SETUP_SUBMIT_ALL),  # 6.1
    AIO_SETUP_COOP_TASKRUN | AIO_SETUP_TASKRUN_FLAG | AIO_SETUP_R_DISABLED,  # 5.19
    AIO_SETUP_R_DISABLED,  # 5.10
)


cdef class Ring:
    """A ring of `entries` submissions (or fewer: halved while the kernel answers ENOMEM).

    Raises OSError with the kernel's errno: EPERM (seccomp, kernel.io_uring_disabled), ENOSYS, ENOMEM, EMFILE.
    """

    def __cinit__(self, uint32_t entries=SQ_ENTRIES):
        self.fd = -1
        self.mark = process_mark()
        cdef int err = -ENOMEM
        cdef uint32_t size
        while True:
            size = entries
            while size >= SQ_ENTRIES_MIN or size == entries:
                for flags in FLAG_SETS:
                    err = self.setup(size, flags)
                    if err != -EINVAL:
                        break
                if err != -ENOMEM or size <= SQ_ENTRIES_MIN:
                    break
                size //= 2
            if err != -ENOMEM or clock_ns() - last_closed_ns > MEMORY_BACK_NS:
                break
            time.sleep(RETRY_AFTER_S)
        if err >= 0:
            err = self.refused()
        if err < 0:
            raise_errno(-err)
        forget_in_child.add(self)

    cdef int refused(self) noexcept:
        """A seccomp profile may allow rings to be made and yet forbid to use them: -errno, else 0. Neither call does anything
        with a ring that is not enabled and has no eventfd; the kernel's own answers are EBADFD and ENXIO."""
        cdef int ret
        for ret in (
            aio_uring_enter(self.fd, 0, 0, 0, NULL, 0),
            aio_uring_register(self.fd, AIO_UNREGISTER_EVENTFD, NULL, 0),
        ):
            if ret in (-EPERM, -ENOSYS, -EACCES):
                return ret
        return 0

    cdef int setup(self, uint32_t entries, uint32_t flags) except? -1:
        """Returns the fd, or -errno where another size or set of flags may do better."""
        cdef aio_uring_params params
        memset(&params, 0, sizeof(params))
        params.flags = flags | AIO_SETUP_CQSIZE
        params.cq_entries = entries * CQ_PER_SQ
        cdef int fd = aio_uring_setup(entries, &params)
        if fd < 0:
            # -1 is -EPERM and also Cython's mark for "an exception may be set"; none is.
            return fd
        cdef uint32_t wanted = AIO_FEAT_SINGLE_MMAP | AIO_FEAT_NODROP | AIO_FEAT_EXT_ARG
        if params.features & wanted != wanted:
            close_fd(fd)
            return -ENOSYS
        self.fd = fd
        self.setup_flags = flags
        self.features = params.features
        try:
            self.map_rings(&params)
        except OSError as exc:
            self.close()
            return -exc.errno
        return fd

    cdef int map_rings(self, void *opaque) except -1:
        cdef aio_uring_params *params = <aio_uring_params *>opaque
        self.sq_entries = params.sq_entries
        self.cq_entries = params.cq_entries
        cdef size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t)
        cdef size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(aio_cqe)
        self.ring_size = max(sq_size, cq_size)
        cdef void *address = mmap(NULL, self.ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                                  self.fd, AIO_OFF_SQ_RING)
        if address == MAP_FAILED:
            raise_errno(errno)
        self.ring_map = address
        self.sqes_size = params.sq_entries * sizeof(aio_sqe)
        address = mmap(NULL, self.sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                       self.fd, AIO_OFF_SQES)
        if address == MAP_FAILED:
            raise_errno(errno)
        self.sqes = <aio_sqe *>address
        if (madvise(self.ring_map, self.ring_size, MADV_DONTFORK) < 0
                or madvise(self.sqes, self.sqes_size, MADV_DONTFORK) < 0):
            raise_errno(errno)
        cdef char *base = <char *>self.ring_map
        self.sq_head = <uint32_t *>(base + params.sq_off.head)
        self.sq_tail = <uint32_t *>(base + params.sq_off.tail)
        self.sq_flags = <uint32_t *>(base + params.sq_off.flags)
        self.sq_mask = (<uint32_t *>(base + params.sq_off.ring_mask))[0]
        self.cq_head = <uint32_t *>(base + params.cq_off.head)
        self.cq_tail = <uint32_t *>(base + params.cq_off.tail)
        self.cq_mask = (<uint32_t *>(base + params.cq_off.ring_mask))[0]
        self.cqes = <aio_cqe *>(base + params.cq_off.cqes)
        self.cq_flags = <uint32_t *>(base + params.cq_off.flags)
        # The indirection array is not used: slot i always names sqe i.
        cdef uint32_t *array = <uint32_t *>(base + params.sq_off.array)
        cdef uint32_t i
        for i in range(params.sq_entries):
            array[i] = i
        self.prepared = self.sq_tail[0]
        return 0

    cdef int enable(self) noexcept nogil:
        """Make the calling thread the ring's owner. Returns 0 or -errno."""
        if self.fd < 0 or not same_process(self.mark):
            return -EBADF
        cdef int ret = aio_uring_register(self.fd, AIO_REGISTER_ENABLE_RINGS, NULL, 0)
        # For files of the disk (0: as it is) the kernel has no more than 4 for each CPU.
        cdef uint32_t workers[2]
        workers[0], workers[1] = 0, WORKERS_MAX
        if ret >= 0:
            aio_uring_register(self.fd, AIO_REGISTER_IOWQ_MAX_WORKERS, workers, 2)  # older kernels have no limit
        return ret

    cdef int register_eventfd(self, int fd) noexcept nogil:
        """Have completions, and deferred work for them, told on `fd` too. By the owner only. Returns 0 or -errno."""
        return aio_uring_register(self.fd, AIO_REGISTER_EVENTFD, &fd, 1)

    cdef void quiet_eventfd(self, bint quiet) noexcept nogil:
        """While quiet nothing is told there. Look at has_events() after ending it."""
        aio_store_release(self.cq_flags, AIO_CQ_EVENTFD_DISABLED if quiet else 0)
        aio_fence()

    cdef aio_sqe *get_sqe(self) noexcept nogil:
        """A zeroed submission entry, or NULL while the queue is full (enter() makes room)."""
        if self.prepared - aio_load_acquire(self.sq_head) >= self.sq_entries:
            return NULL
        cdef aio_sqe *sqe = &self.sqes[self.prepared & self.sq_mask]
        memset(sqe, 0, sizeof(aio_sqe))
        self.prepared += 1
        return sqe

    cdef uint32_t unsubmitted(self) noexcept nogil:
        return self.prepared - aio_load_acquire(self.sq_head)

    cdef bint has_submitted(self, uint32_t prepared) noexcept nogil:
        """Whether the kernel has taken the entry after which `prepared` entries had been prepared."""
        return <int32_t>(aio_load_acquire(self.sq_head) - prepared) >= 0

    cdef bint has_events(self) noexcept nogil:
        """True where completions are in the queue, or enter() would put some there."""
        if self.ring_map == NULL or not same_process(self.mark):
            return False
        return self.cq_ready() != 0 or self.has_deferred()

    cdef bint has_deferred(self) noexcept nogil:
        """True where the kernel holds work or overflown completions that only enter() brings out."""
        return aio_load_relaxed(self.sq_flags) & (AIO_SQ_TASKRUN | AIO_SQ_CQ_OVERFLOW) != 0

    cdef bint has_overflow(self) noexcept nogil:
        return aio_load_relaxed(self.sq_flags) & AIO_SQ_CQ_OVERFLOW != 0

    cdef uint32_t cq_ready(self) noexcept nogil:
        return aio_load_acquire(self.cq_tail) - self.cq_head[0]

    cdef aio_cqe pop_cqe(self) noexcept nogil:
        """Take one completion; the caller has seen cq_ready() > 0. The slot is the kernel's again on return."""
        cdef uint32_t head = self.cq_head[0]
        cdef aio_cqe cqe = self.cqes[head & self.cq_mask]
        aio_store_release(self.cq_head, head + 1)
        return cqe

    cdef int enter(self, uint32_t min_complete, int64_t timeout_ns) noexcept nogil:
        """Submit all that is prepared, run deferred work, wait for `min_complete` completions at most `timeout_ns`
        (< 0: without limit). Returns the number submitted, or -errno (-ETIME when the time is over). Whether there
        are completions is told by cq_ready(), never by this result."""
        if self.fd < 0 or not same_process(self.mark):
            return -EBADF
        cdef aio_getevents_arg arg
        cdef aio_kernel_timespec ts
        cdef uint32_t flags = AIO_ENTER_GETEVENTS
        self.enters += 1
        aio_store_release(self.sq_tail, self.prepared)
        if min_complete == 0:
            return aio_uring_enter(self.fd, self.unsubmitted(), 0, flags, NULL, 0)
        if self.features & AIO_FEAT_NO_IOWAIT:
            flags |= AIO_ENTER_NO_IOWAIT
        if timeout_ns < 0:
            return aio_uring_enter(self.fd, self.unsubmitted(), min_complete, flags, NULL, 0)
        memset(&arg, 0, sizeof(arg))
        ts.tv_sec = timeout_ns // 1000000000
        ts.tv_nsec = timeout_ns % 1000000000
        arg.ts = <uint64_t>&ts
        return aio_uring_enter(self.fd, self.unsubmitted(), min_complete, flags | AIO_ENTER_EXT_ARG, &arg, sizeof(arg))

    cdef int submit(self) noexcept nogil:
        """Only submit what is prepared: the number of that, or -errno."""
        if self.fd < 0 or not same_process(self.mark):
            return -EBADF
        self.enters += 1
        aio_store_release(self.sq_tail, self.prepared)
        return aio_uring_enter(self.fd, self.unsubmitted(), 0, 0, NULL, 0)

    cpdef forget_after_fork(self):
        """In a forked child: close the inherited fd, which would keep the parent's files open."""
        if not same_process(self.mark):
            self.release()

    cpdef close(self):
        """Unmap and close. The caller has cancelled and harvested what was armed (closing alone does not)."""
        self.release()

    cdef void release(self) noexcept:
        if same_process(self.mark):  # the maps do not exist in a child
            if self.sqes != NULL:
                munmap(self.sqes, self.sqes_size)
            if self.ring_map != NULL:
                munmap(self.ring_map, self.ring_size)
        self.sqes = NULL
        self.ring_map = NULL
        global last_closed_ns
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1
            last_closed_ns = clock_ns()

    def __dealloc__(self):
        self.release()


def supported_operations():
    """The numbers of the operations that the running kernel's io_uring knows, a frozenset. Raises OSError as Ring() does."""
    cdef Ring ring = Ring(SQ_ENTRIES_MIN)
    cdef aio_probe probe
    cdef int i, ret
    memset(&probe, 0, sizeof(probe))
    ret = aio_uring_register(ring.fd, AIO_REGISTER_PROBE, &probe, 256)
    ring.close()
    if ret < 0:
        raise_errno(-ret)
    return frozenset(probe.ops[i].op for i in range(probe.ops_len) if probe.ops[i].flags & AIO_PROBE_SUPPORTED)
