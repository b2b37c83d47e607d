"""ContextCore: the turn. Ready queue, timers, sleeping, poll mode, and running what is due.

One turn (`turn`) looks for ready fds, sleeping if there is nothing to do, queues what is due, and runs exactly what
was queued by then. Everything that runs goes through one FIFO queue.

Thread rules: all state is guarded by the GIL, which is dropped only while the monitor sleeps or poll mode spins. A
context made before a fork does not work in the child, and says so.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from aioqemu_loop.context.counters cimport count_busy
from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.context.poll_mode cimport PollMode
from aioqemu_loop.context.ready cimport ReadyQueue
from aioqemu_loop.context.sources cimport Flushable
from aioqemu_loop.context.timers cimport TimerHeap
from aioqemu_loop.fdmon.base cimport AioHandler, FDMon, ReadyList, Runnable
from aioqemu_loop.fdmon.tracer cimport Tracer
from aioqemu_loop.system.atomics cimport aio_fence, aio_load_relaxed, aio_store_release
from aioqemu_loop.system.libc cimport POLLNVAL, clock_ns
from aioqemu_loop.system.process cimport process_mark, same_process

from aioqemu_loop.system.process import flush_before_fork

cdef enum:
    PAGE = 4096
    # What is received lies at the beginning of the kernel's pages, mostly. AMD's processors copy six times as slowly to where
    # the place in the page is the same and a few bytes (42 us for 64 KiB in place of 7; from 32 bytes on none of that), which
    # is where malloc() puts large blocks.
    SCRATCH_OFFSET = 1024

cdef extern from *:
    """
    #include <sched.h>
    /* Threads that hardly ever want the GIL, and can wait for it. */
    static int aio_quiet_threads;
    /* Whether this interpreter has threads besides the one that calls and the quiet ones. */
    static inline int aio_other_threads(void) {
        PyThreadState *thread = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        int more = 1 + aio_quiet_threads;
        while (thread != NULL && more-- > 0)
            thread = PyThreadState_Next(thread);
        return thread != NULL;
    }
    /* Tells at less cost than the clock that hardly any time has passed: some us, whatever the processor's frequency. Where
       they jump, or are not known, the clock is asked. */
    #if defined(__x86_64__)
    #define AIO_FEW_TICKS 8000
    #define aio_ticks() __builtin_ia32_rdtsc()
    #else
    #define AIO_FEW_TICKS 0
    #define aio_ticks() 0ULL
    #endif
    """
    int aio_quiet_threads
    bint aio_other_threads()
    uint64_t aio_ticks() nogil
    uint64_t AIO_FEW_TICKS
    int sched_yield() nogil

# While work is ready the monitor is looked at again after this much time, so that fds and signals never starve.
cdef int64_t LOOK_EVERY_NS = 100_000
# The same where other threads may be waiting for the GIL, which a look lets go of: a busy loop would else make each
# of them wait for the interpreter's switch interval (5 ms) at every hop.
cdef int64_t SHARED_LOOK_EVERY_NS = 10_000
# Output waits for the end of the batch, where all of it goes out together: the peers of many connections are woken up once,
# not one by one. Where callbacks are slow it goes when one returns so long after the first that wrote.
cdef int64_t FLUSH_AFTER_NS = 1_000_000
# After so many turns with one write each the next is taken for such a one (sends_at_once()).
cdef int SINGLE_WRITES = 3
# For so many connections at once one system call costs less than theirs; fewer get their answers a little sooner.
cdef int GATHER_FROM = 4


def add_quiet_threads(int count):
    """So many threads more (or fewer: negative) hardly ever want the GIL: loops need not offer it to them all the time."""
    global aio_quiet_threads
    aio_quiet_threads += count

# A yield that takes longer gave the CPU to another process, not to a thread that had a little to do with the GIL. After that
# so many times what was lost pass without: else a busy loop on a busy machine does one turn per round of everybody's slices.
cdef int64_t YIELD_LOST_NS = 1_000_000
cdef int64_t YIELD_REST_TIMES = 100
cdef int64_t yield_again_ns = 0  # the machine's affair, so one for all contexts; written under the GIL


cdef int yield_to_threads() except -1:
    """Let threads that wait for the GIL have it and the CPU."""
    global yield_again_ns
    cdef int64_t began = clock_ns()
    cdef int64_t lost
    if began < yield_again_ns:
        return 0
    with nogil:
        sched_yield()
    lost = clock_ns() - began
    if lost > YIELD_LOST_NS:
        yield_again_ns = began + lost * YIELD_REST_TIMES
    return 0


cdef class ContextCore:
    """What AioContext is made of; not for use by itself."""

    def __cinit__(self, *args, **kwargs):
        self.mark = process_mark()
        self.ready = ReadyQueue()
        self.timers = TimerHeap()
        self.ready_list = ReadyList()
        self.settling = []
        self.wakeup = Wakeup()
        self.poll_mode = PollMode()
        flush_before_fork.add(self)

    def __dealloc__(self):
        PyMem_Free(self.scratch_block)

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
            try:
                self.flush_writes(False)
            finally:
                self.monitor.release(self.ready_list)
                self.flush_writes(False)  # what the monitor could not send
                self.wakeup.event.test_and_clear()
                self.collect()
                self.settle_waiting()
        return 0

    cdef int settle_waiting(self) except -1:
        """Let go those threads that wait until the kernel has let go of their removed handlers' files."""
        cdef list waiting = self.settling
        self.settling = []
        try:
            for handler, _ in waiting:
                if not self.closed:
                    self.monitor.settle(<AioHandler>handler, self.ready_list)
        finally:
            for _, done in waiting:
                done.set()
        return self.collect()

    cdef int turn(self, bint blocking) except -1:
        """Returns the number of callbacks that ran."""
        cdef int64_t timeout = 0
        self.counters.turns += 1
        if self.wakeup.notified:
            self.wakeup.notified = 0  # the turn that it asked for is this one
        elif blocking:
            timeout = self.timeout_ns()
        if self.settling:
            self.settle_waiting()
        if timeout != 0 or self.must_look():
            self.look(timeout)
        if self.timers.size:
            self.timers.move_due(self.now_ns(), self.ready)
        return self.run_batch()

    cdef bint has_work(self) noexcept:
        return self.ready.popped != self.ready.pushed or self.flush_first is not None or self.ready_list.size != 0

    cdef int64_t timeout_ns(self) except? -2:
        """How long the next look may sleep: 0 while there is work, -1 without limit."""
        cdef int64_t when, now
        if self.has_work():
            return 0
        if not self.timers.pending():
            return -1
        when = self.timers.heap[0].when_ns
        now = self.now_ns()
        return when - now if when > now else 0

    cdef int64_t now_ns(self) except? -1:
        """The time that timers go by."""
        return clock_ns() if self.clock is None else self.clock()

    cdef bint must_look(self) except -1:
        """Whether to look although there is no time to sleep: always at first, then when it costs nothing, or when
        the last look was too long ago."""
        cdef int64_t now
        if self.look_now or self.monitor.need_wait():
            return True
        if aio_ticks() - self.clocked_ticks < AIO_FEW_TICKS:
            return False
        now = clock_ns()
        self.clocked_ticks = aio_ticks()
        return now - self.looked_ns >= (SHARED_LOOK_EVERY_NS if aio_other_threads() else LOOK_EVERY_NS)

    cdef int look(self, int64_t timeout_ns) except -1:
        """Ask the monitor; the only place that sleeps."""
        cdef int64_t started = 0
        cdef int64_t before = 0 if self.look_now else self.looked_ns
        if not same_process(self.mark):
            self.check_open()
        self.look_now = False
        self.counters.looks += 1
        if timeout_ns != 0:
            started = clock_ns()
            if self.poll_mode.max_ns:
                timeout_ns = self.spin(timeout_ns)
            aio_store_release(&self.wakeup.notify_me, 1)
            aio_fence()  # pairs with the one in Wakeup.notify()
            if aio_load_relaxed(&self.wakeup.notified) or self.has_work():
                timeout_ns = 0  # settling, or making ready to spin, may have found something
        elif aio_other_threads():
            yield_to_threads()
        self.counters.sleeps += timeout_ns != 0
        try:
            self.monitor.wait(self.ready_list, timeout_ns)
        finally:
            # Up where this was a nested poll() inside the sleep of an outside main loop.
            aio_store_release(&self.wakeup.notify_me, self.ready.sleeper is not None)
            self.wakeup.notified = 0
            self.wakeup.written = 0
            self.collect()
        self.looked_ns = clock_ns()
        if before:
            count_busy(&self.counters, (started or self.looked_ns) - before)
        if started:
            self.counters.waited_ns += self.looked_ns - started
            if self.poll_mode.max_ns:
                self.adapt(self.looked_ns - started)
        # Python's signal handlers run here, also when nothing else does.
        PyErr_CheckSignals()
        return 0

    cdef int64_t spin(self, int64_t timeout_ns) except? -2:
        """Poll mode. Returns the time that is left to sleep."""
        if self.tracer is None or not self.poll_mode.ns:
            return self.poll_mode.spin(self.monitor, self.wakeup, self.ready_list, timeout_ns)
        self.trace("run_poll_handlers_begin", {"max-ns": self.poll_mode.ns, "timeout": timeout_ns})
        timeout_ns = self.poll_mode.spin(self.monitor, self.wakeup, self.ready_list, timeout_ns)
        self.trace("run_poll_handlers_end", {"progress": timeout_ns == 0, "timeout": timeout_ns})
        return timeout_ns

    cdef int adapt(self, int64_t block_ns) except -1:
        """A wait took `block_ns` in all."""
        cdef int64_t before = self.poll_mode.ns
        self.poll_mode.adapt(block_ns)
        if self.tracer is not None and self.poll_mode.ns != before:
            name = "poll_grow" if self.poll_mode.ns > before else "poll_shrink"
            self.trace(name, {"old": before, "new": self.poll_mode.ns})
        return 0

    cdef int trace(self, str name, dict details) except -1:
        cdef Tracer tracer = self.tracer
        return 0 if tracer is None else tracer.tell(name, details)

    cdef int run_guest(self) except -1:
        """The dispatch of a GSource: turns, as long as there is work and the outside loop has not waited too long."""
        cdef int64_t started = clock_ns()
        self.wakeup.notified = 0
        self.wakeup.written = 0
        if self.settling:
            self.settle_waiting()
        self.monitor.gsource_dispatch(self.ready_list)
        self.collect()
        PyErr_CheckSignals()
        while True:
            if self.timers.size:
                self.timers.move_due(self.now_ns(), self.ready)
            self.counters.turns += 1
            self.run_batch()
            if self.stop_guest or not self.has_work() or clock_ns() - started >= LOOK_EVERY_NS:
                break
        return self.submit()

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
                if handler.on_ready(revents) or revents & POLLNVAL:
                    # Not wanted for now (see remove_half), or closed behind our back: told once, then not watched any more.
                    self.monitor.update(handler, None)
        finally:
            while i < found.size:
                Py_DECREF(<object>found.handlers[i])
                i += 1
            found.size = 0
        return 0

    cdef int run_batch(self) except -1:
        """Run exactly what is queued now. A nested turn may have run part of it: positions only ever count up."""
        cdef uint64_t last = self.ready.pushed
        cdef int ran = 0
        cdef Runnable item = None
        cdef PyObject *taken
        cdef bint outer = self.dispatching
        cdef bint outer_alone = self.alone
        cdef int64_t flush_ns = 0
        self.dispatching = True
        self.alone = last - self.ready.popped == 1
        try:
            while self.ready.popped < last:
                try:
                    while self.ready.popped < last:
                        taken = self.ready.pop()
                        item = <Runnable>taken
                        Py_DECREF(item)
                        ran += self.run_timed(item) if self.timed else item.run()
                        if self.flush_first is not None:
                            flush_ns = self.flush_late(flush_ns)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as exc:
                    ran += 1
                    self.report(item, exc)
        finally:
            self.dispatching = outer
            self.alone = outer_alone
            if self.flush_first is not None:
                self.flush_writes(not outer)
        return ran

    cdef int run_timed(self, Runnable item) except -1:
        cdef int64_t started = clock_ns()
        self.on_timed(item, -1)
        try:
            return item.run()
        finally:
            self.on_timed(item, clock_ns() - started)

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
                self.flush_last.flush_next = item
            self.flush_last = item
            self.flush_count += 1
        return 0

    cdef bint sends_at_once(self, Flushable item) noexcept:
        """Whether a write goes to the kernel before its callback returns: where no other callback could add to it, and in the turns
        before `item` wrote once, not a header and then a body. A client's request is then under way while the client still
        prepares to wait."""
        cdef uint32_t turn = <uint32_t>self.counters.turns
        if item.wrote_turn == turn:
            item.single_writes = 0
            return False
        item.wrote_turn = turn
        if item.single_writes < SINGLE_WRITES:
            item.single_writes += 1
            return False
        if not self.alone:
            return False
        self.alone = False
        return True

    cdef int remove_flush(self, Flushable item) except -1:
        """`item` has nothing to send here any more."""
        cdef Flushable before = None
        cdef Flushable other = self.flush_first
        while other is not None and other is not item:
            before, other = other, other.flush_next
        if other is None:
            return 0
        if before is None:
            self.flush_first = item.flush_next
        else:
            before.flush_next = item.flush_next
        if self.flush_last is item:
            self.flush_last = before
        item.flush_next = None
        item.flush_queued = False
        self.flush_count -= 1
        return 0

    def flush_before_fork(self):
        """What was written before a fork goes out once. By any thread that forks; only the context's own has any."""
        if self.depth and self.home == PyThread_get_thread_ident() and not self.closed:
            self.flush_writes(False)
            self.submit()

    cdef int64_t flush_late(self, int64_t due_ns) except? -2:
        """After a callback of a batch, with output waiting. Returns when it is due: 0 for "none waits"."""
        cdef int64_t now = clock_ns()
        if due_ns == 0:
            return now + FLUSH_AFTER_NS
        if now < due_ns:
            return due_ns
        self.flush_writes(False)
        return 0

    cdef int flush_writes(self, bint gather) except -1:
        """Send what is queued; `gather`: by the monitor's next look, if there is a lot. Where one raises (an exit), the
        others stay for the next call."""
        cdef Flushable item
        self.gathering = gather and self.monitor.gathers and self.flush_count >= GATHER_FROM
        while self.flush_first is not None:  # flushing may call protocols, which may write more
            item = self.flush_first
            self.flush_first = item.flush_next
            item.flush_next = None
            item.flush_queued = False
            self.flush_count -= 1
            try:
                item.flush()
            except (SystemExit, KeyboardInterrupt):
                self.gathering = False
                raise
            except BaseException as exc:
                self.report(item, exc)
        self.gathering = False
        self.flush_last = None
        return 0

    cdef int submit(self) except -1:
        """Return when all output that was handed to the monitor is sent, or has failed."""
        if not self.closed and self.monitor.gathers:
            self.monitor.submit(self.ready_list)
            self.collect()
        return 0

    cdef char *read_scratch(self) except NULL:
        """A buffer of SCRATCH_ROOM bytes for one read at a time; its pages are touched only as far as reads fill it."""
        if self.scratch == NULL:
            self.scratch_block = PyMem_Malloc(PAGE + SCRATCH_OFFSET + SCRATCH_ROOM)
            if self.scratch_block == NULL:
                raise MemoryError
            self.scratch = <char *>(((<uintptr_t>self.scratch_block + PAGE) & ~<uintptr_t>(PAGE - 1)) + SCRATCH_OFFSET)
        return self.scratch
