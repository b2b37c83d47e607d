"""The contract between AioContext and a file descriptor monitor, and the types it speaks in.

`AioHandler` is one registration: an fd and the poll events wanted. It is known to the kernel by a token of its own,
never by the fd number, which is reused. `FDMon` is what each backend implements; a Python class may derive from it.
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.fcntl cimport F_GETFL, fcntl
from posix.stat cimport S_ISDIR, S_ISFIFO, S_ISREG, S_ISSOCK, fstat, struct_stat
from posix.time cimport timespec
from posix.unistd cimport close as close_fd

from aioqemu_loop.system.libc cimport (
    EBADF,
    EPERM,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    O_PATH,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    pollfd,
    ppoll,
    raise_errno,
)
from aioqemu_loop.uring.buffers cimport BufferRing


# End of the free list of a SlotTable.
cdef uint32_t NO_SLOT = 0xFFFFFFFF
# The two highest bits of a token are left to the monitor.
cdef uint32_t MAX_GENERATION = 0x3FFFFFFF
# The kernel's DEFAULT_POLLMASK: what poll() says of a file that has no poll operation.
cdef short ALWAYS_READY = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM


class FDMonUnavailable(RuntimeError):
    """A backend that was asked for by name cannot be had. `name` is the backend, `reason` says why in words."""

    def __init__(self, name, reason):
        super().__init__(f"fd monitor {name!r} is not available: {reason}")
        self.name = name
        self.reason = reason


cdef class Runnable:
    """What the ready queue holds. run() is called once for each time it was queued; 0: there was nothing to do."""

    cdef int run(self) except -1:
        raise NotImplementedError


cdef class AioHandler(Runnable):
    """One registration of a file descriptor.

    fd: the file descriptor; events: the poll(2) events wanted (0: not watched at all, POLLHUP and POLLERR included);
    edge: True where one report per change of readiness is enough, which monitors may or may not make use of.
    receives: see FDMon.receive(). known_pollable: the maker knows that it is no file that cannot be polled; maybe_eventfd: an
    eventfd, or a file that may be woken up by one.
    """

    cdef int on_ready(self, int revents) except -1:
        """The monitor found `revents`. Queues work; never calls user code. Returns 1 where nobody wants to know."""
        raise NotImplementedError

    # What a monitor that can do more than watch tells those who asked for it, see FDMon.receive() and send_later().

    cdef int on_data(self, BufferRing buffers, uint32_t index, int size) except -1:
        """`size` bytes came into a buffer, which is to be given back. Queues work; never calls user code."""
        raise NotImplementedError

    cdef int on_end(self, int result) except -1:
        """Nothing more will come: 0 at the end of the stream, or -errno. Queues work; never calls user code. The handler's
        events are then those that it still wants."""
        raise NotImplementedError

    cdef bint on_sent(self, int result) except -1:
        """The outcome of send_later(): bytes, or -errno. Queues work; never calls user code. True where it did."""
        raise NotImplementedError


cdef class CqeHandler:
    """QEMU's CqeHandler: one operation of a ring, prepared in `sqe` (but for user_data), and what becomes of it.

    The monitor holds it from add_sqe() to the last completion, so memory that belongs to it outlives the kernel's use of it.
    """

    cdef int on_cqe(self, int result, uint32_t flags) except -1:
        """A completion: what the kernel returned, or -errno, and the flags of the completion. Queues work; never calls user
        code. -ECANCELED: it has not happened. -EOWNERDEAD: the thread that had submitted it is gone, nobody knows."""
        raise NotImplementedError


cdef class ReadyList:
    """What one wait() found: handlers and their events."""

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.size):
            Py_DECREF(<object>self.handlers[i])
        PyMem_Free(self.handlers)
        PyMem_Free(self.revents)

    def __len__(self):
        return self.size

    cdef int push(self, AioHandler handler, int revents) except -1:
        cdef Py_ssize_t capacity
        cdef void *grown
        if self.size == self.capacity:
            capacity = max(64, self.capacity * 2)
            grown = PyMem_Realloc(self.handlers, capacity * sizeof(PyObject *))
            if grown == NULL:
                raise MemoryError
            self.handlers = <PyObject **>grown
            grown = PyMem_Realloc(self.revents, capacity * sizeof(int))
            if grown == NULL:
                raise MemoryError
            self.revents = <int *>grown
            self.capacity = capacity
        Py_INCREF(handler)
        self.handlers[self.size] = <PyObject *>handler
        self.revents[self.size] = revents
        self.size += 1
        return 0

    def add(self, AioHandler handler not None, int revents):
        """QEMU's aio_add_ready_handler, for monitors written in Python."""
        self.push(handler, revents)

    def items(self):
        """[(handler, revents)]."""
        return [(<object>self.handlers[i], self.revents[i]) for i in range(self.size)]


cdef class SlotTable:
    """Tokens for registrations or operations: slot index in the low half, generation in the high half, so that the kernel never
    holds a pointer, and a token whose registration is gone finds nothing. Holds a reference to each handler."""

    def __cinit__(self):
        self.handlers = []
        self.first_free = NO_SLOT

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef uint64_t alloc(self, object handler) except 0:
        cdef uint32_t size, i
        cdef Slot *grown
        if self.first_free == NO_SLOT:
            size = max(64, self.size * 2)
            grown = <Slot *>PyMem_Realloc(self.slots, size * sizeof(Slot))
            if grown == NULL:
                raise MemoryError
            self.slots = grown
            self.handlers.extend([None] * (size - self.size))
            for i in range(self.size, size):
                grown[i].generation = 1
                grown[i].next_free = i + 1
            grown[size - 1].next_free = NO_SLOT
            self.first_free = self.size
            self.size = size
        i = self.first_free
        self.first_free = self.slots[i].next_free
        self.handlers[i] = handler
        self.used += 1
        return (<uint64_t>self.slots[i].generation << 32) | i

    cdef object get(self, uint64_t token):
        """The handler, or None where the token is of the past."""
        cdef uint32_t i = <uint32_t>token
        if i >= self.size or self.slots[i].generation != <uint32_t>(token >> 32):
            return None
        return self.handlers[i]

    cdef int free(self, uint64_t token) except -1:
        cdef uint32_t i = <uint32_t>token
        if i >= self.size or self.slots[i].generation != <uint32_t>(token >> 32):
            return 0
        self.slots[i].generation = self.slots[i].generation % MAX_GENERATION + 1  # a token is never 0
        self.slots[i].next_free = self.first_free
        self.first_free = i
        self.used -= 1
        self.handlers[i] = None
        return 0


cdef class FDMon:
    """What AioContext asks of a backend. QEMU's FDMonOps, as a class that owns its state.

    Attributes: `name` (str) of the class, and `edge` of the instance (bool, False unless set: handlers with edge=True
    are reported once per change of readiness instead of level-triggered). `costly_changes`: adding and removing are system
    calls, so what will be wanted again soon may stay registered. `gathers`: send_later() may do something. `has_ring`: add_sqe() does.

    Unless said otherwise a method is called with the GIL, by the thread that runs the context.
    """

    name = "?"

    cpdef update(self, AioHandler old, AioHandler new):
        """Add (old None), remove (new None) or take note of changed events or a changed file (old is new).

        Called from any thread. Must raise OSError at once where the fd is closed (EBADF) or not pollable (EPERM).
        Removal may be queued; settle() waits for its end. No event of a removed handler may be reported after this.
        """
        raise NotImplementedError

    cpdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        """Look for ready fds, at most `timeout_ns` (-1: without limit, 0: look only), and add them to `ready_list`.

        Level-triggered towards the caller, but for handlers with edge=True where self.edge. A signal ends the wait
        without events: Python's signal handlers must get to run. Returns the number added.
        """
        raise NotImplementedError

    cpdef bint need_wait(self) except -1:
        """True where wait(0) has something to do that costs nothing to find out: events seen, changes to submit."""
        return False

    cpdef settle(self, AioHandler handler, ReadyList ready_list):
        """Return when the kernel holds nothing any more for a removed handler: its fd may be closed then.

        Events of other handlers that come up meanwhile go to `ready_list`. Where only another thread can do that
        it returns at once, and settled() stays False until that thread's next wait().
        """

    cpdef bint settled(self, AioHandler handler) except *:
        """True when the kernel holds nothing any more for a removed handler."""
        return True

    cpdef release(self, ReadyList ready_list):
        """The thread stops running the context; another one may go on with it. Nothing stays armed that belongs to
        the thread; the next wait() arms again. Events that come up go to `ready_list`."""

    cpdef close(self):
        """Give back every kernel resource. Called once, after release() or in a forked child."""

    cpdef unsigned long long system_calls(self):
        """How many system calls it has made."""
        return self.calls

    # Instead of wait(), where an outside main loop sleeps: QEMU's gsource_prepare, gsource_check and gsource_dispatch.

    cpdef list gsource_fds(self):
        """[(fd, poll events)] that the outside loop is to watch. `gsource_changes` counts up when the answer changes.
        Raises NotImplementedError where this monitor cannot be driven so."""
        raise NotImplementedError(f"fd monitor {self.name!r} cannot be driven by an outside main loop")

    cpdef bint gsource_prepare(self, ReadyList ready_list) except *:
        """The outside loop is about to sleep: hand over every change first. True where it need not, there is something;
        what was found may be in `ready_list` already."""
        return False

    cpdef bint gsource_check(self, list ready) except *:
        """The outside loop has looked; `ready` is [(fd, poll revents)], others' fds too. True for "call gsource_dispatch"."""
        cdef dict own = dict(self.gsource_fds())
        for fd, revents in ready:
            if revents and fd in own:
                return True
        return False

    cpdef int gsource_dispatch(self, ReadyList ready_list) except -1:
        """Collect what is ready, as wait(0)."""
        return self.wait(ready_list, 0)

    cdef int receive(self, AioHandler handler, bint on) except -1:
        """Whether the handler wants the bytes themselves, by on_data() and on_end(), wherever POLLIN and not POLLOUT is
        among its events. A monitor that only watches goes on to report readiness."""
        handler.receives = on
        return 0

    cdef bint send_later(self, AioHandler handler, object owner, void *data, uint32_t size,
                         ReadyList ready_list) except -1:
        """Send without waiting, together with the next look; True if that was taken on: on_sent() follows. `owner` keeps
        `data` alive. Nothing else may be sent on that fd before; submit() brings it about at once."""
        return False

    cdef int submit(self, ReadyList ready_list) except -1:
        """Return when every send_later() is done."""
        return 0

    cdef bint add_sqe(self, CqeHandler handler) except -1:
        """QEMU's aio_add_sqe: have the kernel perform an operation, submitted with the next look, or with many others before it;
        True if that was taken on: on_cqe() follows. False where there is no ring. An operation that is in flight when
        the thread stops running the context is cancelled, and begun anew by the next run, or completed if it cannot be."""
        return False

    cdef int cancel_sqe(self, CqeHandler handler) except -1:
        """Ask for the end of an operation that was added; its on_cqe() tells whether it had happened. No-op for others."""
        return 0

    cdef list take_sqes(self):
        """After release(): the operations that are to be begun anew, handed over for good."""
        return []

    cdef bint begin_peek(self, ReadyList ready_list) except -1:
        """Make ready for peek(); False where this monitor has none, or has just told somebody something."""
        return False

    cdef bint peek(self) noexcept nogil:
        """True where wait(0) would find something. Called without the GIL while poll mode spins."""
        return False


cdef int check_fd(int fd) except -1:
    """Raise OSError (EBADF) unless fd is open, and not only for its path (O_PATH)."""
    cdef int flags = fcntl(fd, F_GETFL)
    if flags < 0:
        raise_errno(errno)
    if flags & O_PATH:
        raise_errno(EBADF)
    return 0


cpdef int check_pollable(AioHandler handler) except -1:
    """Raise what epoll_ctl would raise: EBADF for a closed fd, EPERM for a file that cannot be polled. Sets maybe_eventfd.

    POLL_ADD on such a file (regular file, directory, /dev/null) completes at once and for ever. Which files those
    are is the kernel's to say. To poll() they are ready for everything (its DEFAULT_POLLMASK); what is so, too, and neither
    socket nor pipe, is shown to a short-lived epoll instance.
    """
    cdef struct_stat st
    cdef int fd = handler.fd
    if fstat(fd, &st) < 0:
        raise_errno(errno)
    handler.maybe_eventfd = not (S_ISSOCK(st.st_mode) or S_ISFIFO(st.st_mode))
    if not handler.maybe_eventfd:
        return 0
    cdef pollfd asked
    cdef timespec no_time = timespec(0, 0)
    asked.fd = fd
    asked.events = ALWAYS_READY
    if ppoll(&asked, 1, &no_time, NULL) >= 0 and asked.revents != ALWAYS_READY:
        if asked.revents & POLLNVAL:  # O_PATH
            raise_errno(EBADF)
        return 0
    cdef int epfd = epoll_create1(EPOLL_CLOEXEC)
    if epfd < 0:  # no fd left to ask with: refuse what is certain
        if S_ISREG(st.st_mode) or S_ISDIR(st.st_mode):
            raise_errno(EPERM)
        return 0
    cdef epoll_event event
    event.events = 0
    event.data.u64 = 0
    cdef int err = 0
    if epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) < 0:
        err = errno
    close_fd(epfd)
    if err:
        raise_errno(err)
    return 0
