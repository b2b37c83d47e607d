"""fdmon "io_uring": readiness by IORING_OP_POLL_ADD.

Invariant: the ring is touched only inside wait(), settle() and release(), by the thread that owns it; update(), from
any thread, only puts handlers on `submit_list`, and fill_sq() brings the kernel in line with what they want by then.

- Every arming has a token of its own. One that was cancelled keeps its slot until its last completion (a "zombie"),
  so a late completion never reaches a newer registration. handler.mon_inflight counts armings the kernel knows.
- Level-triggered handlers take a one-shot poll that is armed again by the next wait(), after the callbacks ran.
  Multishot polls are edge-triggered: only handlers with edge=True get them.
- An armed poll keeps its file open whatever happens to the fd: close() alone frees no port and sends no FIN. Hence
  settle(): cancel, enter, harvest, and only then close.
- After IORING_REGISTER_ENABLE_RINGS only the enabling thread may enter. release() cancels and harvests all, so that
  another thread can go on with a fresh ring; a thread that ends with polls armed would take them with it.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from posix.unistd cimport F_OK, access

from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, SlotTable, check_pollable
from aioqemu_loop.system.libc cimport (
    EAGAIN,
    EBADF,
    EBUSY,
    ECANCELED,
    EINTR,
    EINVAL,
    ETIME,
    POLLERR,
    POLLNVAL,
    POLLPRI,
    raise_errno,
)
from aioqemu_loop.system.process cimport same_process
from aioqemu_loop.uring.abi cimport *
from aioqemu_loop.uring.ring cimport Ring

cdef extern from * nogil:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    static inline int aio_gettid(void) { return (int)syscall(SYS_gettid); }  /* glibc has it from 2.30 */
    /* A number for this thread that no other thread ever gets; pthread ids are reused at once. */
    static uint64_t aio_last_thread;
    static __thread uint64_t aio_this_thread;
    static inline uint64_t aio_thread_number(void) {
        if (aio_this_thread == 0)
            aio_this_thread = __atomic_add_fetch(&aio_last_thread, 1, __ATOMIC_RELAXED);
        return aio_this_thread;
    }
    """
    int gettid "aio_gettid"()
    uint64_t thread_number "aio_thread_number"()

# A cancelled poll completes at once; this only bounds a wait that the kernel should never let happen.
cdef int64_t CANCEL_WAIT_NS = 100_000_000
# user_data of requests whose own completion says nothing (ASYNC_CANCEL); never a token.
cdef uint64_t IGNORED = 0


cdef class IOUringFDMon(FDMon):
    name = "io_uring"

    def __cinit__(self):
        self.edge = True
        self.slots = SlotTable()
        self.submit_list = []
        self.ring = Ring()

    cpdef update(self, AioHandler old, AioHandler new):
        if new is not None and new.events:
            if not new.known_pollable:
                check_pollable(new.fd)
            new.mon_registered = True
            new.mon_rearm = new is old
            self.mark_dirty(new)
        if old is not None and (new is not old or new.events == 0):
            old.mon_registered = False
            if old.mon_token:
                self.mark_dirty(old)

    cdef int mark_dirty(self, AioHandler handler) except -1:
        if not handler.mon_dirty:
            self.submit_list.append(handler)
            handler.mon_dirty = True
        return 0

    cpdef bint need_wait(self) except *:
        return len(self.submit_list) != 0 or self.ring.has_events()

    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef Py_ssize_t before = ready_list.size
        cdef int ret = 0
        self.own()
        self.parked = False
        if self.submit_list:
            self.fill_sq(ready_list)
        if self.ring.cq_ready() or ready_list.size != before:
            timeout_ns = 0
        if timeout_ns == 0:
            # Looking is a memory read: TASKRUN_FLAG tells of deferred work, and without DEFER_TASKRUN none is deferred.
            if self.ring.unsubmitted() or self.ring.has_deferred():
                ret = self.ring.enter(0, 0)
        else:
            with nogil:
                ret = self.ring.enter(1, timeout_ns)
        self.harvest(ready_list)
        self.check(ret)
        return <int>(ready_list.size - before)

    cdef int check(self, int ret) except -1:
        """Deal with what enter() returned. Whether there were completions is known from the queue."""
        if ret >= 0 or ret == -ETIME or ret == -EINTR or ret == -EBUSY or ret == -EAGAIN:
            return 0
        raise_errno(-ret)

    cdef int own(self) except -1:
        """Make sure that this thread owns an enabled ring of this process."""
        cdef uint64_t me = thread_number()
        cdef int ret
        if self.closed or not same_process(self.ring.mark):
            raise RuntimeError("this io_uring is closed, or belongs to the parent process")
        if self.owner == me:
            return 0
        if self.owner != 0:
            self.drop_ring()
        if self.ring.fd < 0:
            self.ring = Ring()
        ret = self.ring.enable()
        if ret < 0:
            raise_errno(-ret)
        self.owner = me
        self.owner_tid = gettid()
        return 0

    cdef int drop_ring(self) except -1:
        """Give up a ring that this thread may not enter. Readiness is a state: arming again in another loses none."""
        cdef SlotTable old = self.slots
        cdef AioHandler handler
        if self.owner != 0:
            self.ring.close()
            self.owner = 0
        self.slots = SlotTable()
        for item in old.handlers:
            if item is not None:
                handler = <AioHandler>item
                handler.mon_token = 0
                handler.mon_inflight = 0
                if handler.mon_registered:
                    self.mark_dirty(handler)
        return 0

    cdef int fill_sq(self, ReadyList ready_list) except -1:
        """Bring the kernel in line with every handler on the submit list."""
        cdef list todo = self.submit_list
        cdef AioHandler handler
        self.submit_list = []
        for item in todo:
            handler = <AioHandler>item
            handler.mon_dirty = False
        for item in todo:
            self.reconcile(<AioHandler>item, ready_list)
        return 0

    cdef int reconcile(self, AioHandler handler, ReadyList ready_list) except -1:
        cdef aio_sqe *sqe
        cdef bint wanted = handler.mon_registered and not self.parked
        cdef uint64_t token
        cdef uint32_t events
        if handler.mon_token and (handler.mon_rearm or not wanted):
            self.make_room(ready_list)
            if handler.mon_token:  # making room may have harvested its completion
                # Not POLL_REMOVE: that gives up (EALREADY) on a multishot poll that has just fired, and leaves it armed.
                sqe = self.ring.get_sqe()
                sqe.opcode = AIO_OP_ASYNC_CANCEL
                sqe.fd = -1
                sqe.addr = handler.mon_token
                sqe.user_data = IGNORED
                if self.ring.features & AIO_FEAT_CQE_SKIP:
                    sqe.flags = AIO_SQE_CQE_SKIP_SUCCESS
                handler.mon_token = 0
        handler.mon_rearm = False
        if wanted and not handler.mon_token:
            self.make_room(ready_list)
            token = self.slots.alloc(handler)
            sqe = self.ring.get_sqe()
            sqe.opcode = AIO_OP_POLL_ADD
            sqe.fd = handler.fd
            events = <uint32_t>handler.events
            if handler.edge and not self.one_shot_only:
                sqe.len = AIO_POLL_ADD_MULTI
                # A multishot poll reports what the wake-up named, and sockets name POLLPRI whenever data comes.
                events &= ~<uint32_t>POLLPRI
            sqe.op_flags = aio_poll_events(events)
            sqe.user_data = token
            handler.mon_token = token
            handler.mon_inflight += 1
        elif handler.mon_registered and not handler.mon_token:
            self.mark_dirty(handler)  # parked: armed again by the next wait()
        return 0

    cdef int make_room(self, ReadyList ready_list) except -1:
        while self.ring.unsubmitted() >= self.ring.sq_entries:
            self.enter_now(False, ready_list)
        return 0

    cdef int enter_now(self, bint wait_one, ReadyList ready_list) except -1:
        """Submit, sleep for one completion at the most (and not for ever), and harvest."""
        cdef int ret = self.ring.enter(1 if wait_one else 0, CANCEL_WAIT_NS)
        self.harvest(ready_list)
        self.check(ret)
        if wait_one:
            PyErr_CheckSignals()
        return 0

    cdef int harvest(self, ReadyList ready_list) except -1:
        """Take every completion, those that overflowed the CQ too."""
        while True:
            while self.ring.cq_ready():
                self.complete(self.ring.pop_cqe(), ready_list)
            if not self.ring.has_overflow():
                return 0
            self.overflowed = True
            self.ring.enter(0, 0)

    cdef int complete(self, aio_cqe cqe, ReadyList ready_list) except -1:
        cdef AioHandler handler = self.slots.get(cqe.user_data)
        if handler is None:
            return 0
        cdef bint current = handler.mon_token == cqe.user_data
        cdef int revents = cqe.res
        if not cqe.flags & AIO_CQE_F_MORE:
            handler.mon_inflight -= 1
            self.slots.free(cqe.user_data)
            if current:
                handler.mon_token = 0
        if not current or not handler.mon_registered:
            return 0
        if revents < 0:
            if revents == -EINVAL and handler.edge and not self.one_shot_only:
                self.one_shot_only = True  # multishot polls came with 5.13
                self.edge = False
            elif revents != -ECANCELED:
                # The file is gone (EBADF) or refuses. Told once, as poll(2) would, and not armed again.
                ready_list.push(handler, POLLNVAL if revents == -EBADF else POLLNVAL | POLLERR)
                return 0
            revents = 0
        if not handler.mon_token:
            self.mark_dirty(handler)
        if revents:
            ready_list.push(handler, revents)
        return 0

    cpdef settle(self, AioHandler handler, ReadyList ready_list):
        # What another thread armed only that thread can cancel: its next wait() does.
        if not handler.mon_inflight or self.closed or self.owner != thread_number():
            return
        if not same_process(self.ring.mark):
            return
        self.fill_sq(ready_list)
        self.enter_now(False, ready_list)
        while handler.mon_inflight:
            self.enter_now(True, ready_list)

    cpdef bint settled(self, AioHandler handler) except *:
        # The polls of a thread that has ended ended with it.
        return not handler.mon_inflight or not access(b"/proc/self/task/%d" % self.owner_tid, F_OK) == 0

    cpdef release(self, ReadyList ready_list):
        if self.closed or not same_process(self.ring.mark):
            return
        if self.owner != thread_number():
            self.drop_ring()
        self.parked = True
        for item in self.slots.handlers:
            if item is not None:
                self.mark_dirty(<AioHandler>item)
        self.fill_sq(ready_list)
        if self.slots.used:
            self.enter_now(False, ready_list)
        while self.slots.used:
            self.enter_now(True, ready_list)

    cpdef close(self):
        self.closed = True
        self.ring.close()
        self.slots = SlotTable()
        self.submit_list = []

    cdef bint begin_peek(self, ReadyList ready_list) except -1:
        self.own()
        self.parked = False
        self.fill_sq(ready_list)
        if self.ring.unsubmitted():
            self.ring.enter(0, 0)  # an error shows again in wait()
        return True

    cdef bint peek(self) noexcept nogil:
        return self.ring.has_events()
