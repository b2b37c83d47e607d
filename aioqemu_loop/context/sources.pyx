"""Where the context's work comes from: fd callbacks, transports' handlers, bottom halves, timers."""

from libc.stdint cimport int64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport AioHandler, Runnable
from aioqemu_loop.system.libc cimport POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI

cdef int READ_EVENTS = POLLIN | POLLPRI | POLLHUP | POLLERR | POLLNVAL
cdef int WRITE_EVENTS = POLLOUT | POLLHUP | POLLERR | POLLNVAL


cdef class Callback(Runnable):
    """A plain callable without arguments. Its exception goes to whoever runs the context."""

    def __init__(self, callback):
        self.callback = callback

    cdef int run(self) except -1:
        if self.cancelled:
            return 0
        self.callback()
        return 1

    def __repr__(self):
        return f"<{type(self).__name__} {self.callback!r}>"


cdef class FdCallbacks(AioHandler):
    """A registration with one callback for reading and one for writing. A callback that is queued already, which only
    a nested poll can see, is not queued again."""

    cdef int on_ready(self, int revents) except -1:
        if self.reader is not None and revents & READ_EVENTS and self.reader_mark <= self.ready.popped:
            self.ready.push(self.reader)
            self.reader_mark = self.ready.pushed
        if self.writer is not None and revents & WRITE_EVENTS and self.writer_mark <= self.ready.popped:
            self.ready.push(self.writer)
            self.writer_mark = self.ready.pushed
        return self.reader is None and self.writer is None


cdef class OwnedHandler(AioHandler):
    """A registration that belongs to a transport or server: run() deals with `revents`."""

    cdef int on_ready(self, int revents) except -1:
        self.revents |= revents
        return self.queue_run()

    cdef int queue_run(self) except -1:
        if not self.queued:
            self.queued = True
            self.ready.push(self)
        return 0

    cdef object owner(self):
        """Who owns the fd, for messages; None once it has let go."""
        return None

    def __repr__(self):
        return f"<{type(self).__name__} fd={self.fd} of {self.owner()!r}>"

    cdef int fd_lost(self) except -1:
        """The fd was closed behind the owner's back, and its number is in use for something else now."""
        raise NotImplementedError


cdef class BottomHalf(Callback):
    """QEMU's QEMUBH: a callback that any thread can schedule; it runs once in the context's next turn, however often
    it was scheduled before that. Made by AioContext.bh_new()."""

    def schedule(self):
        """From any thread. Does nothing after delete()."""
        if self.deleted:
            return
        if self.ready is None:
            raise RuntimeError("bottom halves are made by AioContext.bh_new()")
        self.scheduled = True
        if not self.queued:
            self.queued = True
            self.ready.push(self)
            self.wakeup.notify()

    def cancel(self):
        """Undo schedule(), if the callback has not begun."""
        self.scheduled = False

    def delete(self):
        """Never run again. Safe inside the callback."""
        self.scheduled = False
        self.deleted = True

    cdef int run(self) except -1:
        self.queued = False
        if not self.scheduled:
            return 0
        self.scheduled = False
        self.callback()
        return 1


cdef class Timer(Callback):
    """QEMU's QEMUTimer on the monotonic clock. Made by AioContext.timer_new()."""

    def mod_ns(self, int64_t expire_ns):
        """Run the callback once, not before the monotonic clock shows `expire_ns` (ns, as time.monotonic_ns())."""
        check_made(self)
        self.armed = True
        self.heap.add(self, expire_ns)
        self.wakeup.notify()

    def delete(self):
        """QEMU's timer_del: forget the time that was set; mod_ns() may set another."""
        check_made(self)
        self.armed = False
        self.heap.cancel(self)

    def pending(self):
        return self.armed

    cdef int run(self) except -1:
        # It may have been deleted, or moved, since it came due.
        if not self.armed or self.timer_seq != 0:
            return 0
        self.armed = False
        self.callback()
        return 1


cdef int check_made(Timer timer) except -1:
    if timer.heap is None:
        raise RuntimeError("timers are made by AioContext.timer_new()")
    return 0


cdef class Flushable(Runnable):
    """Something that gathers output while callbacks run, and sends it when their batch is over. What it has to do among
    the callbacks is in run()."""

    cdef int flush(self) except -1:
        raise NotImplementedError
