"""AioContext: one thread's event loop without asyncio, after QEMU's.

One turn (`turn`) looks for ready fds, sleeping if there is nothing to do, queues what is due, and runs exactly what
was queued by then. Everything that runs goes through one FIFO queue.

Thread rules: all state is guarded by the GIL, which is dropped only while the monitor sleeps or poll mode spins. Any
thread may call the methods documented as thread-safe; everything else belongs to the thread that runs the context.
A context made before a fork does not work in the child, and says so.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t

from aioqemu_loop.context.notifier cimport EventNotifier, Wakeup
from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.context.sources cimport BottomHalf, Callback, FdCallbacks, Flushable, OwnedHandler, Timer
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, Runnable, check_fd
from aioqemu_loop.system.atomics cimport aio_cpu_relax, aio_fence, aio_load_relaxed, aio_store_release
from aioqemu_loop.system.libc cimport POLLIN, POLLNVAL, POLLOUT, clock_ns
from aioqemu_loop.system.process cimport process_mark, same_process

import threading

from aioqemu_loop.context.fdmons import make_fdmon, poll_max_ns_or_default

# While work is ready the monitor is looked at again after this much time, so that fds and signals never starve.
cdef int64_t LOOK_EVERY_NS = 100_000
# QEMU's POLL_GROW start and factor: the first spin is this long, each step doubles it.
cdef int64_t POLL_FIRST_NS = 4_000
cdef int64_t POLL_GROW = 2


cdef class WakeupHandler(AioHandler):
    """Watches the context's own eventfd. On a level-triggered monitor it is read empty."""

    cdef Wakeup wakeup
    cdef AioContext context

    cdef int on_ready(self, int revents) except -1:
        if not self.context.monitor.edge:
            self.wakeup.event.test_and_clear()
        return 0


cdef class AioContext:
    """An event loop for one thread, usable without asyncio.

    fdmon: "auto", "io_uring", "epoll", "poll", or an FDMon; poll_max_ns: longest busy polling before it sleeps, in ns.

    Exceptions of callbacks come out of poll(); what was queued behind them runs in the next one. Under an asyncio
    loop they go to the loop's exception handler.
    """

    def __cinit__(self, fdmon="auto", poll_max_ns=None):
        self.mark = process_mark()
        self.poll_max_ns = poll_max_ns_or_default(poll_max_ns)
        self.ready = ReadyQueue()
        self.timers = TimerHeap()
        self.ready_list = ReadyList()
        self.handlers = {}
        self.flush_more = []
        self.closed = True  # until everything is there
        self.wakeup = Wakeup()
        self.monitor = make_fdmon(fdmon)
        cdef WakeupHandler handler = WakeupHandler()
        handler.wakeup = self.wakeup
        handler.context = self
        handler.fd = self.wakeup.event.fd
        handler.events = POLLIN
        handler.edge = True
        self.monitor.update(None, handler)
        self.wakeup_handler = handler
        self.closed = False

    def __dealloc__(self):
        PyMem_Free(self.scratch)

    # -- what users of a plain context call; asyncio's Loop is the other user --

    @property
    def fdmon(self):
        """Name of the fd monitor in use."""
        return self.monitor.name

    def set_fdmon(self, fdmon):
        """Change the fd monitor; every handler moves and no event is lost. By the context's thread only.

        Raises ValueError, FDMonUnavailable, or OSError where a watched fd cannot be watched by the new one (epoll and
        io_uring refuse regular files); then the old one stays.
        """
        self.check_open()
        self.check_home()
        cdef FDMon new = make_fdmon(fdmon)
        cdef FDMon old = self.monitor
        cdef list moving = [self.wakeup_handler, *self.handlers.values()]
        cdef list moved = []
        for handler in moving:
            self.retire(old, <AioHandler>handler)
        try:
            for handler in moving:
                new.update(None, <AioHandler>handler)
                moved.append(handler)
        except BaseException:
            for handler in moved:
                self.retire(new, <AioHandler>handler)
            new.release(self.ready_list)
            new.close()
            for handler in moving:
                old.update(None, <AioHandler>handler)
            self.collect()
            raise
        self.monitor = new
        old.release(self.ready_list)
        old.close()
        self.collect()
        self.look_now = True

    cdef int retire(self, FDMon monitor, AioHandler handler) except -1:
        monitor.update(handler, None)
        monitor.settle(handler, self.ready_list)
        return 0

    def poll(self, bint blocking=True):
        """One turn, QEMU's aio_poll: dispatch what is ready; if `blocking`, wait until something is.

        Returns True if any callback ran. A blocking poll may return False: a signal or notify() ended the wait.
        May be called inside a callback.
        """
        cdef bint progress
        self.check_open()
        self.check_home()
        self.look_now = True
        self.depth += 1
        self.home = PyThread_get_thread_ident()
        try:
            progress = self.turn(blocking) > 0
        finally:
            self.depth -= 1
        return progress

    def notify(self):
        """QEMU's aio_notify: end a blocking poll. Thread-safe; no system call while the context is awake."""
        self.check_open()
        self.wakeup.notify()

    def set_fd_handler(self, fd, io_read=None, io_write=None, *, bint wait=False):
        """Call `io_read()` while `fd` is readable and `io_write()` while it is writable; None for neither removes.

        Thread-safe. Removing from another thread than the context's is asynchronous: the kernel may still hold the
        file for a moment. wait=True returns when it has let go, so that the fd may be closed; the context must be
        running then, or be idle. Raises OSError (EBADF, or EPERM where the monitor cannot watch the file).
        """
        cdef int number = as_fd(fd)
        cdef FdCallbacks old
        self.check_open()
        if io_read is None and io_write is None:
            old = self.callbacks_of(number)
            if old is not None:
                self.remove_handler(old)
                cancel_half(old.reader)
                cancel_half(old.writer)
                old.reader = old.writer = None
                if wait:
                    self.wait_settled(old)
            return
        for write, callback in enumerate((io_read, io_write)):
            if callback is not None:
                self.set_half(number, write, Callback(callback))
            else:
                cancel_half(self.remove_half(number, write))

    def set_event_notifier(self, EventNotifier notifier not None, io_read=None):
        """QEMU's aio_set_event_notifier: call io_read(notifier) when it is set; None removes. Thread-safe."""
        self.set_fd_handler(notifier.fd, None if io_read is None else lambda: io_read(notifier))

    def bh_new(self, callback):
        """A bottom half: `callback()` runs in the turn after its schedule(). Thread-safe."""
        cdef BottomHalf bh = BottomHalf(callback)
        self.check_open()
        bh.ready = self.ready
        bh.wakeup = self.wakeup
        return bh

    def bh_schedule_oneshot(self, callback):
        """Run `callback()` once, in the context's thread. Thread-safe."""
        self.check_open()
        self.ready.push(Callback(callback))
        self.wakeup.notify()

    def timer_new(self, callback):
        """A timer; it runs when set by mod_ns()."""
        cdef Timer timer = Timer(callback)
        self.check_open()
        timer.heap = self.timers
        timer.wakeup = self.wakeup
        return timer

    def compute_timeout(self):
        """QEMU's aio_compute_timeout: how long a blocking poll may sleep, in ns; -1 without limit."""
        return self.timeout_ns()

    def set_poll_params(self, max_ns):
        """Longest busy polling before the context sleeps, in ns; 0 switches it off."""
        self.poll_max_ns = poll_max_ns_or_default(max_ns)
        self.poll_ns = 0

    def close(self):
        """Give everything back. Handlers, timers and bottom halves are forgotten; their fds stay open."""
        if self.closed:
            return
        if same_process(self.mark):
            self.check_home()
            if self.depth:
                raise RuntimeError("Cannot close a running AioContext")
        self.closed = True
        self.monitor.release(self.ready_list)
        self.monitor.close()
        self.wakeup.event.close()
        self.handlers.clear()
        self.timers.clear()
        self.ready.clear()

    # -- running --

    cdef int check_open(self) except -1:
        if self.closed:
            raise RuntimeError("AioContext is closed")
        if not same_process(self.mark):
            raise RuntimeError("AioContext was made in another process; make a new one after fork")
        return 0

    cdef int check_home(self) except -1:
        if self.depth and self.home != PyThread_get_thread_ident():
            raise RuntimeError("AioContext is running in another thread")
        return 0

    cdef bint is_home(self) noexcept:
        """True where nobody runs the context, or this thread does: the monitor may be driven from here."""
        return self.depth == 0 or self.home == PyThread_get_thread_ident()

    cdef int enter(self) except -1:
        """This thread starts to run the context."""
        self.check_open()
        self.check_home()
        self.depth += 1
        self.home = PyThread_get_thread_ident()
        self.look_now = True
        return 0

    cdef int leave(self) except -1:
        """This thread stops to run it: nothing stays armed that would go with the thread."""
        self.depth -= 1
        if self.depth == 0 and not self.closed and same_process(self.mark):
            self.flush_writes()
            self.monitor.release(self.ready_list)
            self.wakeup.event.test_and_clear()
            self.collect()
        return 0

    cdef int turn(self, bint blocking) except -1:
        """Returns the number of callbacks that ran."""
        cdef int64_t timeout = 0
        self.wakeup.notified = 0
        if blocking:
            timeout = self.timeout_ns()
        if timeout != 0 or self.must_look():
            self.look(timeout)
        if self.timers.size:
            self.timers.move_due(clock_ns(), self.ready)
        return self.run_batch()

    cdef int64_t timeout_ns(self) except? -2:
        """How long the next look may sleep: 0 while there is work, -1 without limit."""
        cdef int64_t when, left
        if self.ready.popped != self.ready.pushed:
            return 0
        if self.timers.size == 0:
            return -1
        when = self.timers.next_ns()
        if when < 0:
            return -1
        left = when - clock_ns()
        return left if left > 0 else 0

    cdef bint must_look(self) except *:
        """Whether to look although there is no time to sleep: always at first, then when it costs nothing, or when
        the last look was too long ago."""
        return self.look_now or self.monitor.need_wait() or clock_ns() - self.looked_ns >= LOOK_EVERY_NS

    cdef int look(self, int64_t timeout_ns) except -1:
        """Ask the monitor; the only place that sleeps."""
        cdef int64_t started = 0
        if not same_process(self.mark):
            self.check_open()
        self.look_now = False
        if timeout_ns != 0:
            if self.poll_max_ns:
                started = clock_ns()
                timeout_ns = self.spin(timeout_ns)
            aio_store_release(&self.wakeup.notify_me, 1)
            aio_fence()  # pairs with the one in Wakeup.notify()
            if aio_load_relaxed(&self.wakeup.notified):
                timeout_ns = 0
        try:
            self.monitor.wait(self.ready_list, timeout_ns)
        finally:
            aio_store_release(&self.wakeup.notify_me, 0)
            self.wakeup.notified = 0
            self.wakeup.written = 0
            self.collect()
        self.looked_ns = clock_ns()
        if started:
            self.adapt(self.looked_ns - started)
        # Python's signal handlers run here, also when nothing else does.
        PyErr_CheckSignals()
        return 0

    cdef int64_t spin(self, int64_t timeout_ns) except? -2:
        """Poll mode: look without sleeping for up to poll_ns. Returns the time that is left to sleep."""
        cdef int64_t now, deadline
        cdef bint hit = False
        if self.poll_ns == 0 or not self.monitor.begin_peek(self.ready_list):
            return timeout_ns
        now = clock_ns()
        deadline = now + (self.poll_ns if timeout_ns < 0 else min(self.poll_ns, timeout_ns))
        cdef int64_t started = now
        with nogil:
            while now < deadline:
                if self.monitor.peek() or aio_load_relaxed(&self.wakeup.notified):
                    hit = True
                    break
                aio_cpu_relax()
                now = clock_ns()
        if hit or self.ready_list.size:
            return 0
        return timeout_ns if timeout_ns < 0 else max(0, timeout_ns - (now - started))

    cdef int adapt(self, int64_t block_ns) except -1:
        """QEMU's rule: spin longer while events come soon after, not at all when they do not."""
        if block_ns <= self.poll_ns:
            return 0
        if block_ns > self.poll_max_ns:
            self.poll_ns = 0
        else:
            self.poll_ns = min(self.poll_max_ns, max(POLL_FIRST_NS, self.poll_ns * POLL_GROW))
        return 0

    cdef int collect(self) except -1:
        """Hand what the monitor found to the handlers, which queue their work."""
        cdef ReadyList found = self.ready_list
        cdef AioHandler handler
        cdef Py_ssize_t i = 0
        cdef int revents
        if found.size == 0:
            return 0
        try:
            while i < found.size:
                handler = <AioHandler>found.handlers[i]
                Py_DECREF(handler)
                revents = found.revents[i]
                i += 1
                handler.on_ready(revents)
                if revents & POLLNVAL:
                    # Closed behind our back: told once, then not watched any more.
                    self.monitor.update(handler, None)
        finally:
            while i < found.size:
                Py_DECREF(<object>found.handlers[i])
                i += 1
            found.size = 0
        return 0

    cdef int run_batch(self) except -1:
        """Run exactly what is queued now. A nested turn may have run part of it: positions only ever count up."""
        cdef uint64_t first = self.ready.popped
        cdef uint64_t last = self.ready.pushed
        cdef Runnable item = None
        cdef PyObject *taken
        cdef bint outer = self.dispatching
        self.dispatching = True
        try:
            while self.ready.popped < last:
                try:
                    while self.ready.popped < last:
                        taken = self.ready.pop()
                        item = <Runnable>taken
                        Py_DECREF(item)
                        if self.slow_ns:
                            self.run_timed(item)
                        else:
                            item.run()
                        if self.flush_first is not None:
                            self.flush_writes()
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    self.report(item, exc)
        finally:
            self.dispatching = outer
            if self.flush_first is not None:
                self.flush_writes()
        return <int>(last - first)

    cdef int run_timed(self, Runnable item) except -1:
        cdef int64_t started = clock_ns()
        cdef int64_t took
        self.on_slow(item, -1)
        try:
            item.run()
        finally:
            took = clock_ns() - started
            self.on_slow(item, took if took >= self.slow_ns else 0)
        return 0

    cdef int report(self, object item, object exc) except -1:
        if self.on_error is None:
            raise exc
        self.on_error(item, exc)
        return 0

    # -- output gathered while a callback runs --

    cdef int add_flush(self, Flushable item) except -1:
        if not item.flush_queued:
            item.flush_queued = True
            if self.flush_first is None:
                self.flush_first = item
            else:
                self.flush_more.append(item)
        return 0

    cdef int flush_writes(self) except -1:
        """Most callbacks write to one transport at the most: that one needs no list."""
        cdef Flushable item
        cdef list more
        while self.flush_first is not None:  # flushing may call protocols, which may write more
            item = self.flush_first
            self.flush_first = None
            item.flush_queued = False
            item.flush()
            if self.flush_more:
                more = self.flush_more
                self.flush_more = []
                for entry in more:
                    item = <Flushable>entry
                    item.flush_queued = False
                    item.flush()
        return 0

    cdef char *read_scratch(self) except NULL:
        """A buffer of SCRATCH_SIZE for one read at a time; its pages are touched only as far as reads fill it."""
        if self.scratch == NULL:
            self.scratch = <char *>PyMem_Malloc(SCRATCH_SIZE)
            if self.scratch == NULL:
                raise MemoryError
        return self.scratch

    # -- handlers --

    cdef int add_handler(self, AioHandler handler) except -1:
        """Start to watch handler.events on handler.fd (0: known, but not watched yet). Thread-safe."""
        old = self.handlers.get(handler.fd)
        if old is not None:
            self.displace(<AioHandler>old)
        self.monitor.update(None, handler)
        self.handlers[handler.fd] = handler
        self.wakeup.notify()
        return 0

    cdef int displace(self, AioHandler old) except -1:
        """A new owner came for an fd that is registered already: the old one's file is gone and the number reused."""
        self.remove_handler(old)
        if isinstance(old, OwnedHandler):
            (<OwnedHandler>old).fd_lost()
        else:
            cancel_half((<FdCallbacks>old).reader)
            cancel_half((<FdCallbacks>old).writer)
        return 0

    cdef int change_events(self, AioHandler handler, int events) except -1:
        """Thread-safe. The handler's file is looked up anew, so a reused fd number is right again."""
        cdef int before = handler.events
        handler.events = events
        try:
            self.monitor.update(handler, handler)
        except BaseException:
            handler.events = before
            raise
        self.wakeup.notify()
        return 0

    cdef int remove_handler(self, AioHandler handler) except -1:
        """Thread-safe. The kernel may hold the file until settle()."""
        if self.handlers.get(handler.fd) is not handler:
            return 0
        del self.handlers[handler.fd]
        self.monitor.update(handler, None)
        self.wakeup.notify()
        if self.is_home() and not isinstance(handler, OwnedHandler):
            self.settle(handler)
        return 0

    cdef int settle(self, AioHandler handler) except -1:
        """Return when the kernel has let go of a removed handler's file. By the context's thread only."""
        if not self.closed:
            self.monitor.settle(handler, self.ready_list)
            self.collect()
        return 0

    def wait_settled(self, AioHandler handler not None):
        if self.is_home():
            self.settle(handler)
            return
        done = threading.Event()

        def settle_and_tell():
            self.settle(handler)
            done.set()

        self.bh_schedule_oneshot(settle_and_tell)
        done.wait()

    cdef FdCallbacks callbacks_of(self, int fd):
        """The user's registration of an fd, or None. Raises RuntimeError where a transport has the fd."""
        handler = self.handlers.get(fd)
        if handler is None or isinstance(handler, FdCallbacks):
            return handler
        raise RuntimeError(f"File descriptor {fd!r} is used by transport {(<OwnedHandler?>handler).owner()!r}")

    cdef object transport_of(self, int fd):
        """The transport that has this fd, or None."""
        handler = self.handlers.get(fd)
        return (<OwnedHandler>handler).owner() if isinstance(handler, OwnedHandler) else None

    cdef int set_half(self, int fd, bint write, Runnable callback) except -1:
        """Set the reading or writing callback of an fd; one that was there is cancelled."""
        cdef FdCallbacks handler = self.callbacks_of(fd)
        cdef Runnable old
        if handler is None:
            check_fd(fd)
            handler = FdCallbacks()
            handler.ready = self.ready
            handler.fd = fd
            handler.events = POLLOUT if write else POLLIN
            self.add_handler(handler)
        else:
            self.change_events(handler, handler.events | (POLLOUT if write else POLLIN))
        if write:
            old = handler.writer
            handler.writer = callback
            handler.writer_mark = 0
        else:
            old = handler.reader
            handler.reader = callback
            handler.reader_mark = 0
        cancel_half(old)
        return 0

    cdef Runnable remove_half(self, int fd, bint write):
        """Returns the callback that was set, or None; the caller cancels it."""
        cdef FdCallbacks handler = self.callbacks_of(fd)
        cdef Runnable old
        if handler is None:
            return None
        old = handler.writer if write else handler.reader
        if old is None:
            return None
        if write:
            handler.writer = None
        else:
            handler.reader = None
        if handler.reader is None and handler.writer is None:
            self.remove_handler(handler)
        else:
            try:
                self.change_events(handler, POLLIN if write else POLLOUT)
            except OSError:  # the fd was closed before
                self.monitor.update(handler, None)
        return old


cdef int as_fd(object fd) except -1:
    """An int, or an object with fileno(). Raises ValueError as selectors does."""
    if not isinstance(fd, int):
        try:
            fd = int(fd.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fd!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    if fd > 0x7FFFFFFF:
        raise OverflowError("signed integer is greater than maximum")
    return fd


cdef int cancel_half(Runnable callback) except -1:
    if callback is None:
        return 0
    if isinstance(callback, Callback):
        (<Callback>callback).cancelled = True
    else:
        callback.cancel()
    return 0
