"""fdmon "io_uring": readiness by IORING_OP_POLL_ADD, and for those who ask for it the bytes themselves.

Invariant: the ring is touched only inside wait(), settle(), release() and add_sqe(), by the thread that owns it; update(), from
any thread, only puts handlers on `submit_list`, and fill_sq() brings the kernel in line with what they want by then.

- Every arming has a token of its own. One that was cancelled keeps its slot until its last completion (a "zombie"),
  so a late completion never reaches a newer registration. handler.mon_inflight counts armings the kernel knows.
- Level-triggered handlers take a one-shot poll that is armed again by the next wait(), after the callbacks ran.
  Multishot polls are edge-triggered: only handlers with edge=True get them.
- Handlers that want bytes get a multishot receive into provided buffers, which stays armed for the connection's life. It is left
  out where the ring has no DEFER_TASKRUN: with it a receive runs only inside our own enter(), and one cancelled has taken nothing.
- Sends are gathered (send_later) and done by the next enter(), inside that call: they never wait, and none is in
  flight when it returns. Only one that failed or fell short has a completion.
- Any other operation may be asked for (add_sqe, which submits 16 at a time); operations.pyx keeps the books.
- An armed poll or receive keeps its file open whatever happens to the fd: close() alone frees no port and sends no FIN. Hence
  settle(): cancel, enter, harvest, and only then close.
- After IORING_REGISTER_ENABLE_RINGS only the enabling thread may enter. release() cancels and harvests all, so that
  another thread can go on with a fresh ring; a thread that ends with polls armed would take them with it.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.unistd cimport F_OK, access, read
from posix.unistd cimport close as close_fd

from aioqemu_loop.fdmon.base cimport AioHandler, CqeHandler, FDMon, ReadyList, SlotTable, check_pollable
from aioqemu_loop.fdmon.operations cimport OPERATION_BIT, Operations, prepare_cancel
from aioqemu_loop.fdmon.tracer cimport Tracer
from aioqemu_loop.system.libc cimport *
from aioqemu_loop.system.objects cimport list_size
from aioqemu_loop.system.process cimport same_process
from aioqemu_loop.system.threads cimport gettid, thread_number
from aioqemu_loop.uring.abi cimport *
from aioqemu_loop.uring.buffers cimport BUFFER_GROUP, BufferRing
from aioqemu_loop.uring.ring cimport Ring

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_WAITALL

# A cancelled poll completes at once; this only bounds a wait that the kernel should never let happen.
cdef int64_t CANCEL_WAIT_NS = 100_000_000
# What could not be armed because the kernel lacks something is tried again after this much time.
cdef int64_t SHORTAGE_NS = 10_000_000
cdef tuple SHORTAGES = (-ENOMEM, -ENOBUFS, -EAGAIN, -EINTR, -EMFILE, -ENFILE)
# user_data of a send: this, and its place in `sends`. No token has it.
cdef uint64_t SEND_BIT = 1ull << 63
# The submit list is looked through when it has grown to this, then when it has doubled.
cdef Py_ssize_t TIDY_MIN = 1024


cdef class IOUringFDMon(FDMon):
    name = "io_uring"

    def __cinit__(self):
        self.edge = True
        self.gathers = True
        self.has_ring = True
        self.slots = SlotTable()
        self.operations = Operations()
        self.submit_list, self.unarmed, self.early_polls = [], [], set()
        self.tidy_at = TIDY_MIN
        self.outside = {}
        self.half_closed = {}
        self.senders = [None] * MAX_SENDS
        self.payloads = [None] * MAX_SENDS
        self.event_fd = -1
        self.ring = Ring()

    def __dealloc__(self):
        if self.event_fd >= 0:
            close_fd(self.event_fd)

    cpdef update(self, AioHandler old, AioHandler new):
        if new is not None and new.events:
            if not new.known_pollable:
                check_pollable(new)
            new.mon_registered = True
            if new.maybe_eventfd:
                self.outside[new] = None
                self.gsource_changes += 1
            new.mon_rearm = new is old
            self.mark_dirty(new)
        if old is not None and (new is not old or new.events == 0):
            old.mon_registered = False
            if self.half_closed:
                self.half_closed.pop(old, None)
            if old in self.outside:
                del self.outside[old]
                self.gsource_changes += 1
            if old.mon_token:
                self.mark_dirty(old)

    cdef int mark_dirty(self, AioHandler handler) except -1:
        if not handler.mon_dirty:
            if len(self.submit_list) >= self.tidy_at:
                self.tidy()
            self.submit_list.append(handler)
            handler.mon_dirty = True
        return 0

    cdef int tidy(self) except -1:
        """Forget those that came and went before the kernel heard of them: they would pile up until the next wait()."""
        cdef AioHandler handler
        cdef list keep = []
        for item in self.submit_list:
            handler = <AioHandler>item
            if handler.mon_registered or handler.mon_token:
                keep.append(handler)
            else:
                handler.mon_dirty = False
        self.submit_list = keep
        self.tidy_at = max(TIDY_MIN, 2 * len(keep))
        return 0

    cdef int receive(self, AioHandler handler, bint on) except -1:
        if handler.receives != on:
            handler.receives = on
            if handler.mon_registered:
                self.mark_dirty(handler)
        return 0

    cpdef bint need_wait(self) except -1:
        return (
            list_size(<PyObject *>self.submit_list) != 0
            or self.send_count != 0
            or self.ring.has_events()
            or self.operations.has_work()
        )

    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef Py_ssize_t before = ready_list.size
        cdef uint64_t told = self.told
        cdef int ret = 0
        self.own()
        self.parked = False
        if self.unarmed:
            timeout_ns = self.arm_again(timeout_ns)
        if self.submit_list or self.operations.has_work():
            self.fill_sq(ready_list)
        if self.ring.cq_ready() or ready_list.size != before or self.told != told:
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
        return <int>(ready_list.size - before + (self.told - told))

    cdef int64_t arm_again(self, int64_t timeout_ns) except? -2:
        """Those that the kernel could not arm, once it is time. Returns how long to sleep at the most."""
        cdef int64_t left = self.arm_again_ns - clock_ns()
        cdef list todo = self.unarmed
        if left > 0:
            return left if timeout_ns < 0 else min(timeout_ns, left)
        self.unarmed = []
        for item in todo:
            self.mark_dirty(<AioHandler>item)
        return timeout_ns

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
            self.calls += self.ring.enters
            self.ring = Ring()
            self.buffers = None
            self.no_receive = False
        ret = self.ring.enable()
        if ret < 0:
            raise_errno(-ret)
        self.owner = me
        self.owner_tid = gettid()
        return 0

    cdef bint is_owner(self) noexcept:
        """Whether this thread may enter the ring."""
        return not self.closed and self.owner == thread_number() and same_process(self.ring.mark)

    cdef int drop_ring(self) except -1:
        """Give up a ring that this thread may not enter. Readiness is a state: arming again in another loses none. Receives,
        sends and operations are over by then: who runs a loop releases it in the end."""
        cdef SlotTable old = self.slots
        cdef AioHandler handler
        if self.owner != 0:
            self.ring.close()
            self.owner = 0
            self.operations.lose()
        self.slots = SlotTable()
        for item in old.handlers:
            if item is not None:
                handler = <AioHandler>item
                handler.mon_token = 0
                handler.mon_inflight = 0
                handler.mon_receiving = False
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
        return self.fill_operations(ready_list)

    cdef int fill_operations(self, ReadyList ready_list) except -1:
        """Hand over what was asked for by add_sqe() and cancel_sqe()."""
        while self.operations.has_cancels():
            self.make_room(ready_list)
            self.operations.prepare_cancel(self.ring)
        while self.operations.has_waiting() and not self.parked:
            self.make_room(ready_list)
            self.told += self.operations.prepare(self.ring)
        return 0

    cdef int reconcile(self, AioHandler handler, ReadyList ready_list) except -1:
        cdef bint wanted = handler.mon_registered and not self.parked
        cdef bint receiving = (
            wanted and handler.receives and not handler.mon_polls and not handler.events & POLLOUT and self.can_receive()
        )
        if handler.mon_token and (handler.mon_rearm or not wanted or receiving != handler.mon_receiving):
            self.cancel(handler, ready_list)
        handler.mon_rearm = False
        if wanted and not handler.mon_token:
            # Bytes must not come by two ways at once: complete() sees to it when the old one is over.
            if not (handler.mon_inflight and (receiving or handler.mon_receiving)):
                self.arm(handler, receiving, ready_list)
        elif handler.mon_registered and not handler.mon_token:
            self.mark_dirty(handler)  # parked: armed again by the next wait()
        return 0

    cdef int cancel(self, AioHandler handler, ReadyList ready_list) except -1:
        """What is armed becomes a zombie."""
        self.make_room(ready_list)
        if handler.mon_token:  # making room may have harvested its completion
            prepare_cancel(self.ring, handler.mon_token)
            handler.mon_token = 0
        return 0

    cdef int arm(self, AioHandler handler, bint receiving, ReadyList ready_list) except -1:
        cdef aio_sqe *sqe
        cdef uint32_t events
        self.make_room(ready_list)
        handler.mon_token = self.slots.alloc(handler)
        handler.mon_inflight += 1
        handler.mon_receiving = receiving
        sqe = self.ring.get_sqe()
        sqe.fd = handler.fd
        sqe.user_data = handler.mon_token
        if receiving:
            sqe.opcode = AIO_OP_RECV
            sqe.ioprio = AIO_RECV_MULTISHOT
            sqe.flags = AIO_SQE_BUFFER_SELECT
            sqe.buf_group = BUFFER_GROUP
            return 0
        sqe.opcode = AIO_OP_POLL_ADD
        events = <uint32_t>handler.events
        if (handler.edge or (self.half_closed and handler in self.half_closed)) and not self.one_shot_only:
            sqe.len = AIO_POLL_ADD_MULTI
            # A multishot poll reports what the wake-up named, and sockets name POLLPRI whenever data comes.
            events &= ~<uint32_t>POLLPRI
        sqe.op_flags = aio_poll_events(events)
        return 0

    cdef bint can_receive(self) except -1:
        """Makes the buffers when the first handler wants some."""
        cdef BufferRing buffers
        if self.buffers is None and not self.no_receive:
            self.no_receive = True
            if self.ring.setup_flags & AIO_SETUP_DEFER_TASKRUN:
                try:
                    buffers = BufferRing()
                except OSError:
                    return False
                if buffers.register(self.ring) == 0:
                    self.buffers = buffers
                    self.no_receive = False
        return self.buffers is not None

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
                break
            self.overflowed = True
            if self.ring.enter(0, 0) < 0 and not self.ring.cq_ready():
                return 0  # the next look tells why, if it goes on
        if self.send_count:
            self.finish_sends()
        return 0

    cdef int complete(self, aio_cqe cqe, ReadyList ready_list) except -1:
        cdef Tracer tracer
        if cqe.user_data & SEND_BIT:
            self.sends[<uint32_t>cqe.user_data].result = cqe.res
            return 0
        if cqe.user_data & OPERATION_BIT:
            self.told += 1
            tracer = self.tracer
            if tracer is not None:
                tracer.tell("fdmon_io_uring_cqe_handler", {"cqe-res": cqe.res, "flags": cqe.flags})
            return self.operations.complete(cqe)
        found = self.slots.get(cqe.user_data)
        if found is None:
            return 0
        cdef AioHandler handler = <AioHandler>found
        cdef bint current = handler.mon_token == cqe.user_data
        cdef int revents = cqe.res
        if not cqe.flags & AIO_CQE_F_MORE:
            handler.mon_inflight -= 1
            self.slots.free(cqe.user_data)
            if current:
                handler.mon_token = 0
        if handler.mon_receiving:
            return self.received(handler, cqe)
        if not handler.mon_registered:
            return 0
        if not current:
            if not handler.mon_token and not handler.mon_inflight:
                self.mark_dirty(handler)  # a receive waits for the end of this poll
            return 0
        if revents < 0:
            if revents in SHORTAGES:
                if not self.unarmed:
                    self.arm_again_ns = clock_ns() + SHORTAGE_NS
                self.unarmed.append(handler)
                return 0
            if revents != -ECANCELED and not (revents == -EINVAL and self.was_multishot(handler, cqe.user_data)):
                # The file is gone (EBADF) or refuses. Told once, as poll(2) would, and not armed again.
                ready_list.push(handler, POLLNVAL if revents == -EBADF else POLLNVAL | POLLERR)
                return 0
            revents = 0
        if revents and not handler.edge:
            if not revents & (handler.events | POLLERR | POLLHUP | POLLNVAL):
                # The kernel always adds POLLRDHUP. A one-shot poll that was not asked for it would complete at once for
                # ever: a multishot poll, which is edge-triggered, waits for more.
                self.half_closed[handler] = None
                revents = 0
            elif self.half_closed and handler in self.half_closed:
                del self.half_closed[handler]
                handler.mon_rearm = True
                self.mark_dirty(handler)
        if not handler.mon_token:
            self.mark_dirty(handler)
        if revents:
            ready_list.push(handler, revents)
        return 0

    cdef bint was_multishot(self, AioHandler handler, uint64_t token) except -1:
        """Whether a poll was refused for being multishot, of 5.13. From now on none is; others under way will be refused."""
        if not self.one_shot_only and (handler.edge or handler in self.half_closed):
            self.one_shot_only, self.edge = True, False
            self.early_polls = {(<AioHandler>item).mon_token for item in self.slots.handlers if item is not None} | {token}
        return token in self.early_polls

    cdef int received(self, AioHandler handler, aio_cqe cqe) except -1:
        """A completion of a receive, which may have been cancelled: bytes count all the same."""
        cdef uint32_t index
        if cqe.flags & AIO_CQE_F_BUFFER:
            index = cqe.flags >> AIO_CQE_BUFFER_SHIFT
            if cqe.res > 0:
                self.told += 1
                handler.on_data(self.buffers, index, cqe.res)
            else:
                self.buffers.give(index)
        if cqe.flags & AIO_CQE_F_MORE:
            return 0
        handler.mon_receiving = False
        if cqe.res == -EINVAL:
            handler.mon_polls = True  # a file that cannot be received from so: recv() will say what is wrong
        elif cqe.res <= 0 and cqe.res not in (-ENOBUFS, -ECANCELED, -EAGAIN, -EINTR):
            self.told += 1
            handler.on_end(cqe.res)
            handler.mon_registered = handler.mon_registered and handler.events != 0
        if handler.mon_registered:
            self.mark_dirty(handler)
        return 0

    # -- sends --

    cdef bint send_later(self, AioHandler handler, object owner, void *data, uint32_t size,
                         ReadyList ready_list) except -1:
        cdef aio_sqe *sqe
        if self.parked or not self.is_owner():
            return False
        if not self.ring.features & AIO_FEAT_CQE_SKIP or not self.ring.setup_flags & AIO_SETUP_DEFER_TASKRUN:
            return False
        if self.send_count == MAX_SENDS:
            self.submit(ready_list)
        self.make_room(ready_list)
        sqe = self.ring.get_sqe()
        sqe.opcode = AIO_OP_SEND
        sqe.flags = AIO_SQE_CQE_SKIP_SUCCESS
        sqe.fd = handler.fd
        sqe.addr = <uint64_t>data
        sqe.len = size
        # WAITALL makes a short send a failure, which is reported; DONTWAIT keeps it from waiting for the rest.
        sqe.op_flags = MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL
        sqe.user_data = SEND_BIT | <uint32_t>self.send_count
        self.sends[self.send_count].prepared = self.ring.prepared
        self.sends[self.send_count].result = <int32_t>size
        self.senders[self.send_count] = handler
        self.payloads[self.send_count] = owner
        self.send_count += 1
        return True

    cdef int submit(self, ReadyList ready_list) except -1:
        while self.send_count and not self.closed and same_process(self.ring.mark):
            self.enter_now(False, ready_list)
        return 0

    cdef int finish_sends(self) except -1:
        """Those that the kernel has taken are done; it has told which of them failed."""
        cdef AioHandler handler
        cdef int i
        while self.send_first < self.send_count and self.ring.has_submitted(self.sends[self.send_first].prepared):
            i = self.send_first
            self.send_first += 1
            handler = <AioHandler>self.senders[i]
            self.senders[i] = self.payloads[i] = None
            self.told += handler.on_sent(self.sends[i].result)
        if self.send_first == self.send_count:
            self.send_first = self.send_count = 0
        return 0

    cpdef settle(self, AioHandler handler, ReadyList ready_list):
        # What another thread armed only that thread can cancel: its next wait() does.
        if not self.is_owner():
            return
        try:
            self.submit(ready_list)
            if not handler.mon_inflight:
                return
            self.fill_sq(ready_list)
            self.enter_now(False, ready_list)
            while handler.mon_inflight:
                self.enter_now(True, ready_list)
        except OSError:
            return  # nobody may enter the ring: the next wait() says so. Who has an fd to close shall close it all the same.

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
        self.operations.interrupt()
        self.fill_sq(ready_list)
        self.submit(ready_list)
        if self.slots.used or self.operations.slots.used:
            self.enter_now(False, ready_list)
        while self.slots.used or self.operations.slots.used:
            self.enter_now(True, ready_list)

    cpdef close(self):
        self.closed = True
        self.ring.close()
        self.slots = SlotTable()
        self.operations.forget()
        self.submit_list = []
        self.unarmed = []
        self.buffers = None
        if self.event_fd >= 0:
            close_fd(self.event_fd)
            self.event_fd = -1

    cpdef unsigned long long system_calls(self):
        return self.calls + self.ring.enters

    # -- other operations --

    cdef bint add_sqe(self, CqeHandler handler) except -1:
        if self.closed or not same_process(self.ring.mark):
            return False
        self.operations.add(handler)
        if self.operations.are_many() and not self.parked and not self.send_count and self.is_owner():
            self.told += self.operations.submit(self.ring)
        return True

    cdef int cancel_sqe(self, CqeHandler handler) except -1:
        return self.operations.cancel(handler)

    cdef list take_sqes(self):
        return self.operations.take()

    # -- where an outside main loop sleeps --

    cpdef list gsource_fds(self):
        """An eventfd on which the ring tells of completions. Not the ring's own fd: with DEFER_TASKRUN that does not wake
        a poll that sleeps already. And all files that an eventfd may be behind: the kernel does not signal one eventfd from
        inside a write to another; it puts that off, and Linux 6.18 does so only once in a ring's life (measured)."""
        if self.event_fd < 0:
            self.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
            if self.event_fd < 0:
                raise_errno(errno)
        return [(self.event_fd, POLLIN), *[((<AioHandler>item).fd, (<AioHandler>item).events) for item in self.outside]]

    cpdef bint gsource_prepare(self, ReadyList ready_list) except *:
        cdef uint64_t told = self.told
        cdef int ret
        if self.event_fd < 0:
            self.gsource_fds()
        self.own()
        self.parked = False
        if self.event_ring is not self.ring:
            ret = self.ring.register_eventfd(self.event_fd)
            if ret < 0:
                raise_errno(-ret)
            self.event_ring = self.ring
        self.arm_again_ns = 0  # nobody looks at the time while an outside loop sleeps
        self.arm_again(0)
        self.fill_sq(ready_list)
        self.ring.quiet_eventfd(False)
        if self.ring.unsubmitted() or self.ring.has_events():
            ret = self.ring.enter(0, 0)
            self.harvest(ready_list)
            self.check(ret)
        return ready_list.size != 0 or self.told != told or self.need_wait() or len(self.unarmed) != 0

    cpdef bint gsource_check(self, list ready) except *:
        cdef uint64_t count
        cdef set gone = {fd for fd, revents in ready if revents & POLLNVAL} if ready else None
        if gone:
            self.gone = [item for item in self.outside if (<AioHandler>item).fd in gone]
        if self.event_ring is self.ring:
            self.ring.quiet_eventfd(True)
            read(self.event_fd, &count, sizeof(count))
        return self.gone is not None or self.need_wait()

    cpdef int gsource_dispatch(self, ReadyList ready_list) except -1:
        cdef list gone = self.gone
        self.gone = None
        for item in gone or ():
            if item in self.outside:  # the ring's poll holds the file, and would never tell
                ready_list.push(<AioHandler>item, POLLNVAL)
        return self.wait(ready_list, 0)

    cdef bint begin_peek(self, ReadyList ready_list) except -1:
        cdef uint64_t told = self.told
        self.own()
        self.parked = False
        self.fill_sq(ready_list)
        if self.ring.unsubmitted():
            self.ring.enter(0, 0)  # an error shows again in wait()
            self.harvest(ready_list)
        return self.told == told and ready_list.size == 0

    cdef bint peek(self) noexcept nogil:
        return self.ring.has_events()
