"""AioContext: one thread's event loop without asyncio, after QEMU's.

Any thread may call the methods documented as thread-safe; everything else belongs to the thread that runs the context.
"""

from aioqemu_loop.context.core cimport ContextCore
from aioqemu_loop.context.g_source cimport GSource
from aioqemu_loop.context.notifier cimport EventNotifier, Wakeup
from aioqemu_loop.context.sources cimport BottomHalf, Callback, FdCallbacks, OwnedHandler, Timer
from aioqemu_loop.fdmon.base cimport AioHandler, CqeHandler, FDMon, Runnable, check_fd
from aioqemu_loop.fdmon.tracer cimport Tracer
from aioqemu_loop.system.atomics cimport aio_load_relaxed
from aioqemu_loop.system.libc cimport EBADF, ECANCELED, POLLIN, POLLNVAL, POLLOUT
from aioqemu_loop.system.process cimport same_process

from posix.fcntl cimport F_GETFD, fcntl

import threading

from aioqemu_loop.context.fdmons import G_SOURCE_REASON, RINGS, make_fdmon
from aioqemu_loop.fdmon.base import FDMonUnavailable
from aioqemu_loop.fdmon.tracer import TRACE_EVENTS, check_untraced
from aioqemu_loop.context.poll_params import checked_factor, poll_max_ns_or_default


cdef class WakeupHandler(AioHandler):
    """Watches the context's own eventfd. On a level-triggered monitor, and where an outside loop polls, it is read empty."""

    cdef Wakeup wakeup
    cdef AioContext context

    cdef int on_ready(self, int revents) except -1:
        if not self.context.monitor.edge or self.context.held:
            self.wakeup.event.test_and_clear()
            self.wakeup.written = 0
            if self.context.ready.sleeper is not None and aio_load_relaxed(&self.wakeup.notified):
                self.wakeup.notify()  # read by the way: the outside loop is still to be woken up
        return 0


cdef class AioContext(ContextCore):
    """An event loop for one thread, usable without asyncio.

    fdmon: "auto", "io_uring", "epoll", "poll", "liburing", or an FDMon; poll_max_ns: longest busy polling before it sleeps, in ns.

    Exceptions of callbacks come out of poll(); what was queued behind them runs in the next one. Under an asyncio
    loop they go to the loop's exception handler.
    """

    def __cinit__(self, fdmon="auto", poll_max_ns=None):
        self.closed = True  # until everything is there
        self.poll_mode.set_params(poll_max_ns_or_default(poll_max_ns), 0, 0)
        self.handlers = {}
        self.monitor = make_fdmon(fdmon)
        cdef WakeupHandler handler = WakeupHandler()
        handler.wakeup = self.wakeup
        handler.context = self
        handler.fd = self.wakeup.event.fd
        handler.events = POLLIN
        handler.edge = True
        handler.known_pollable = True
        handler.maybe_eventfd = True
        self.monitor.update(None, handler)
        self.wakeup_handler = handler
        self.closed = False

    # -- what users of a plain context call; asyncio's Loop is the other user --

    @property
    def fdmon(self):
        """Name of the fd monitor in use."""
        return self.monitor.name

    def set_fdmon(self, fdmon):
        """Change the fd monitor; every handler moves and no event is lost. By the context's thread only.

        Raises ValueError, FDMonUnavailable (io_uring after use_g_source() too), or OSError where a watched fd cannot be watched by the new one (epoll and
        io_uring refuse regular files), or RuntimeError in a trace callback; then the old one stays.
        """
        check_untraced("set_fdmon")
        self.check_open()
        self.check_home()
        if fdmon == "auto" and self.g_source_mode:
            fdmon = "poll"
        self.drop_lost()
        cdef FDMon new = make_fdmon(fdmon)
        try:
            if self.g_source_mode and new.name in RINGS:
                raise FDMonUnavailable(new.name, G_SOURCE_REASON)
            if self.held:
                new.gsource_fds()
        except BaseException:
            new.close()
            raise
        self.change_fdmon(new)

    cdef int change_fdmon(self, FDMon new) except -1:
        cdef FDMon old = self.monitor
        cdef list moving = [self.wakeup_handler, *self.handlers.values()]
        cdef list moved = []
        for handler in moving:
            old.update(<AioHandler>handler, None)
        old.release(self.ready_list)
        try:
            for handler in moving:
                self.adopt(new, <AioHandler>handler)
                moved.append(handler)
        except BaseException:
            for handler in moved:
                new.update(<AioHandler>handler, None)
            new.release(self.ready_list)
            new.close()
            for handler in moving:
                self.adopt(old, <AioHandler>handler)
            self.collect()
            raise
        self.monitor = new
        new.tracer = self.tracer
        for operation in old.take_sqes():
            if not new.add_sqe(<CqeHandler>operation):
                (<CqeHandler>operation).on_cqe(-ECANCELED, 0)
        self.counters.old_calls += old.system_calls()
        old.close()
        self.collect()
        self.look_now = True
        self.trace("fdmon_changed", {"old": old.name, "new": new.name})
        if new.gsource_changes <= old.gsource_changes:
            new.gsource_changes = old.gsource_changes + 1
        return self.tell_sleeper()

    def use_g_source(self, *, bint keep_io_uring=False):
        """Make the context fit for an outside main loop, as QEMU's aio_context_use_g_source: io_uring is given up for good,
        every handler moves to poll. An outside loop does not call wait() regularly, which is what submits changes.

        keep_io_uring=True: QEMU 10.2's answer to the same: the monitor stays, GSource.prepare() submits, and the outside
        loop watches an eventfd that the ring signals. Raises RuntimeError while the context runs or in a trace callback, and
        for keep_io_uring after io_uring was given up.
        """
        check_untraced("use_g_source")
        self.check_open()
        if self.depth:
            raise RuntimeError("use_g_source() cannot be called while the context runs")
        if keep_io_uring:
            if self.g_source_mode:
                raise RuntimeError(f"io_uring is not in use: {G_SOURCE_REASON}")
            self.monitor.gsource_fds()
            self.keeps_fdmon = True
        elif not self.g_source_mode:
            if self.monitor.name != "poll":
                self.change_fdmon(make_fdmon("poll"))
            self.g_source_mode = True

    def get_g_source(self):
        """A GSource: the context driven by an outside main loop, until it is destroyed. use_g_source() where nobody called
        it. Raises RuntimeError while the context runs or another GSource is held."""
        self.check_open()
        if self.held:
            raise RuntimeError("AioContext is driven by another GSource already")
        if self.depth:
            raise RuntimeError("AioContext is running")
        if not self.keeps_fdmon:
            self.use_g_source()
        return GSource(self)

    cdef int adopt(self, FDMon monitor, AioHandler handler) except -1:
        """Register a handler that was registered before. Its fd may be closed since: that is told by POLLNVAL."""
        try:
            monitor.update(None, handler)
        except OSError as exc:
            if exc.errno != EBADF:
                raise
            self.ready_list.push(handler, POLLNVAL)
        return 0

    def poll(self, bint blocking=True):
        """One turn, QEMU's aio_poll: dispatch what is ready; if `blocking`, wait until something is.

        Returns True if any callback ran. A blocking poll may return False: a signal or notify() ended the wait.
        May be called inside a callback.
        """
        cdef bint progress
        self.enter()
        try:
            progress = self.turn(blocking) > 0
            self.submit()
        finally:
            self.depth -= 1
            if self.depth == 0 and self.settling:
                self.settle_waiting()
        return progress

    def notify(self):
        """QEMU's aio_notify: end a blocking poll. Thread-safe; no system call while the context is awake."""
        self.check_open()
        self.wakeup.notify()

    def set_fd_handler(self, fd, io_read=None, io_write=None, *, bint wait=False):
        """Call `io_read()` while `fd` is readable and `io_write()` while it is writable; None for neither removes.

        Thread-safe. Removing from another thread than the context's is asynchronous: the kernel may still hold the
        file for a moment. wait=True returns when it has let go, so that the fd may be closed; for that the thread
        that polls the context must poll it again (on io_uring only it can cancel what it armed). Raises OSError (EBADF, or EPERM where the monitor cannot watch the file).
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

    def set_poll_params(self, max_ns, grow=0, shrink=0):
        """QEMU's aio_context_set_poll_params: busy polling before the context sleeps.

        max_ns: the longest, 0 switches it off, None takes the default; grow: the factor while events come that soon,
        0 means 2; shrink: the divisor when they do not, 0 means not at all for now. Raises TypeError or ValueError.
        """
        self.poll_mode.set_params(
            poll_max_ns_or_default(max_ns), checked_factor("grow", grow), checked_factor("shrink", shrink)
        )

    @property
    def poll_max_ns(self):
        """Longest busy polling, in ns."""
        return self.poll_mode.max_ns

    @property
    def poll_ns(self):
        """How long the next busy polling may be, in ns."""
        return self.poll_mode.ns

    def poll_counters(self):
        """(times of busy polling, those in which something came, ns spent in all)."""
        return self.poll_mode.spins, self.poll_mode.hits, self.poll_mode.spent_ns

    def set_tracer(self, callback, names=TRACE_EVENTS):
        """Call `callback(name, details)` for those trace events, QEMU's and ours, in whichever thread they happen; None ends it.

        What the callback raises goes to sys.unraisablehook, and it is not called again. It is called in the middle of
        things: set_fdmon(), use_g_source() and close() raise RuntimeError in it. Raises ValueError for unknown names.
        """
        self.tracer = None if callback is None else Tracer(callback, names)
        self.monitor.tracer = self.tracer

    def close(self):
        """Give everything back. Handlers, timers and bottom halves are forgotten; their fds stay open.

        Called by another thread than the one that polled last, on io_uring, the kernel lets go of watched files only
        some ms later: what that thread armed no other one can cancel.
        """
        if self.closed:
            return
        check_untraced("close")
        if same_process(self.mark):
            self.check_home()
            if self.depth:
                raise RuntimeError("Cannot close a running AioContext")
        self.closed = True
        try:
            self.settle_waiting()
            self.monitor.release(self.ready_list)
        except OSError:
            pass  # of a ring that nobody may enter: closing it ends what is armed
        finally:
            self.monitor.close()
            self.wakeup.event.close()
            self.handlers.clear()
            self.timers.clear()
            self.ready.clear()

    # -- handlers --

    cdef int add_handler(self, AioHandler handler) except -1:
        """Start to watch handler.events on handler.fd (0: known, but not watched yet). Thread-safe."""
        self.claim(handler.fd)
        self.monitor.update(None, handler)
        self.handlers[handler.fd] = handler
        if self.tracer is not None:
            self.trace("fd_handler_added", {"fd": handler.fd, "events": handler.events})
        return self.tell_sleeper()

    cdef int tell_sleeper(self) except -1:
        """The interest set changed: a thread that sleeps in wait() must look at it, and so must an outside main loop."""
        if not self.is_home() or self.ready.sleeper is not None:
            self.wakeup.notify()
        return 0

    cdef int claim(self, int fd) except -1:
        """A new owner came for an fd. If it is registered already, the old one's file is gone and the number reused."""
        old = self.handlers.get(fd)
        if old is None:
            return 0
        self.remove_handler(<AioHandler>old)
        if isinstance(old, OwnedHandler):
            (<OwnedHandler>old).fd_lost()
        else:
            cancel_half((<FdCallbacks>old).reader)
            cancel_half((<FdCallbacks>old).writer)
        return 0

    cdef int drop_lost(self) except -1:
        """Before a file of our own may get the number of one that is closed: its owner would close ours."""
        for handler in list(self.handlers.values()):
            if fcntl((<AioHandler>handler).fd, F_GETFD) >= 0:
                continue
            if isinstance(handler, OwnedHandler):
                self.claim((<AioHandler>handler).fd)
            else:
                self.remove_handler(<AioHandler>handler)
                self.ready_list.push(<AioHandler>handler, POLLNVAL)
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
        return self.tell_sleeper()

    cdef int remove_handler(self, AioHandler handler) except -1:
        """Thread-safe. The kernel may hold the file until settle()."""
        if self.handlers.get(handler.fd) is not handler:
            return 0
        del self.handlers[handler.fd]
        if self.tracer is not None:
            self.trace("fd_handler_removed", {"fd": handler.fd})
        self.monitor.update(handler, None)
        self.tell_sleeper()
        if self.is_home() and not isinstance(handler, OwnedHandler):
            self.settle(handler)
        return 0

    cdef bint add_sqe(self, CqeHandler handler) except -1:
        """QEMU's aio_add_sqe, see FDMon.add_sqe(): False where the monitor has no ring."""
        self.check_open()
        if not self.monitor.add_sqe(handler):
            return False
        if self.tracer is not None:
            self.trace("fdmon_io_uring_add_sqe", {"opcode": handler.sqe.opcode, "fd": handler.sqe.fd, "off": handler.sqe.off})
        self.tell_sleeper()
        return True

    cdef int cancel_sqe(self, CqeHandler handler) except -1:
        """The operation's on_cqe() will tell whether it had happened. No-op where it is not under way."""
        self.monitor.cancel_sqe(handler)
        return self.tell_sleeper()

    cdef int settle(self, AioHandler handler) except -1:
        """Return when the kernel has let go of a removed handler's file. By the context's thread only."""
        if not self.closed:
            self.monitor.settle(handler, self.ready_list)
            self.collect()
        return 0

    cdef int wait_settled(self, AioHandler handler) except -1:
        """settle(), or from another thread wait until the context's thread did."""
        if self.is_home():
            self.settle(handler)
            if self.monitor.settled(handler):
                return 0
        done = threading.Event()
        self.settling.append((handler, done))
        self.wakeup.notify()
        done.wait()
        return 0

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

    cdef int set_half(self, int fd, bint write, Runnable callback, bint known_pollable=False) except -1:
        """Set the reading or writing callback of an fd; one that was there is cancelled. `known_pollable`: that it is open and
        can be polled need not be asked."""
        cdef FdCallbacks handler = self.callbacks_of(fd)
        cdef Runnable old
        cdef int kept
        if handler is None:
            if not known_pollable:
                check_fd(fd)
            handler = FdCallbacks()
            handler.ready = self.ready
            handler.fd = fd
            handler.known_pollable = known_pollable
            handler.events = POLLOUT if write else POLLIN
            self.add_handler(handler)
        else:
            kept = 0 if handler.reader is None and handler.writer is None else handler.events
            handler.known_pollable = known_pollable
            self.change_events(handler, kept | (POLLOUT if write else POLLIN))
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

    cdef Runnable remove_half(self, int fd, bint write, bint for_now=False):
        """Returns the callback that was set, or None; the caller cancels it. `for_now`: it is likely to be set again before the
        fd is ready. Then the registration may stay, until it reports in vain."""
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
            handler.file = None  # the monitor may hold the handler for longer
            if not (for_now and self.monitor.costly_changes):
                self.remove_handler(handler)
        else:
            try:
                self.change_events(handler, POLLIN if write else POLLOUT)
            except OSError:  # the fd was closed before
                self.monitor.update(handler, None)
        return old

    cdef int remember_file(self, int fd, object file) except -1:
        """Keep the object by which an fd was registered: alive, and to be found when it no longer knows its number."""
        if not isinstance(file, int):
            self.callbacks_of(fd).file = file
        return 0

    cdef int number_of(self, object fd) except -1:
        """as_fd(), and the number that an object had which was closed while it is registered."""
        try:
            return as_fd(fd)
        except ValueError:
            if fd is not None:
                for handler in self.handlers.values():
                    if isinstance(handler, FdCallbacks) and (<FdCallbacks>handler).file is fd:
                        return (<FdCallbacks>handler).fd
            raise


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
