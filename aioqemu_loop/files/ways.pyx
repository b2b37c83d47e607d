"""Ways to do what may block: a little of it at once, the rest by a thread. The third way is loop/operation.pyx."""

from libc.stdint cimport int64_t, uint32_t
from posix.time cimport timespec

from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.system.libc cimport clock_ns, to_timespec

import asyncio
import collections
import os

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    #if !defined(SYS_futex) && defined(SYS_futex_time64)
    #define SYS_futex SYS_futex_time64 /* where time_t has always had 64 bits */
    #endif
    static inline void aio_sleep_while(uint32_t *word, uint32_t value, const struct timespec *at_most) {
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, at_most, NULL, 0);
    }
    static inline void aio_wake_one(uint32_t *word) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
    """
    void aio_sleep_while(uint32_t *word, uint32_t value, const timespec *at_most) nogil
    void aio_wake_one(uint32_t *word) nogil

# What is done at once may take this much of a turn; then others get theirs.
cdef int64_t BUDGET_NS = 200_000
# So many jobs one call in the executor does, one after the other; then others who wait for its threads have their turn.
cdef int JOBS_OF_A_CALL = 16
# So long it waits for the next one, in which a task that awaits one call after the other has asked for it.
cdef int64_t LINGER_NS = 1_000_000


class Outcome(asyncio.Future):
    """Of a Job. After cancel() it is cancelled, but not before the job's end if that has begun."""

    __slots__ = ("job",)

    def cancel(self, msg=None):
        return not self.done() and (<Job>self.job).cancel(msg)


cdef class Job:
    """A call for a thread. `result` is what it returned, also where the await was cancelled; None where it did not return."""

    cdef bint cancel(self, message) except -1:
        self.asked = True
        self.message = message
        if not self.begun and not self.must:
            self.let_go()
            self.end()
        return True

    cdef int let_go(self) except -1:
        """Others hold the job for a moment after its end: buffers must be free by then. One that has not begun never will."""
        self.function = self.args = self.kwargs = None
        return 0

    cdef int run(self) except -1:
        """In the thread. Between the look at `function` and `begun` nobody else runs: no Python code, so the GIL is kept."""
        if self.function is None:
            return 0
        self.begun = True
        function, args, kwargs = self.function, self.args, self.kwargs
        self.let_go()
        try:
            self.result = function(*args, **kwargs)
        except BaseException as exc:
            self.error = exc
        return 0

    cdef int end(self) except -1:
        """In the loop's thread."""
        future, self.future = self.future, None
        if future is None:
            return 0
        future.job = None
        if self.asked:
            asyncio.Future.cancel(future, self.message)
        elif self.error is None:
            future.set_result(self.result)
        elif isinstance(self.error, StopIteration):  # no future takes it
            future.set_exception(RuntimeError(f"{self.error!r} in a thread"))
        else:
            future.set_exception(self.error)
        return 0


cdef class Ways:
    """Of one event loop, any asyncio loop."""

    def __init__(self, loop):
        self.loop = loop
        self.core = loop if isinstance(loop, LoopCore) else None
        self.turn_over = self.end_turn
        self.waiting = collections.deque()
        self.jobs = collections.deque()
        self.over = collections.deque()

    cdef int begin_turn(self) except -1:
        self.in_turn = True
        self.turn_ns = clock_ns()
        self.loop.call_soon(self.turn_over)
        return 0

    def end_turn(self):
        """One of those that wait has the next turn."""
        self.in_turn = False
        while self.waiting and not self.in_turn:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)
                self.begin_turn()

    cdef bint spent(self) except -1:
        """Whether what is done at once has had its share of this turn: then another_turn() comes before more of it."""
        if not self.in_turn:
            self.begin_turn()
            return False
        return clock_ns() - self.turn_ns > BUDGET_NS

    cdef object another_turn(self):
        """To be awaited: ends when it is the awaiting task's turn, after others that wait."""
        future = self.loop.create_future()
        self.waiting.append(future)
        return future

    cdef bint has_ring(self) noexcept:
        return self.core is not None and self.core.context.monitor.has_ring

    cdef Job start(self, object function, tuple args, dict kwargs={}, bint must=False):
        """Begin a call in the loop's default executor. `must`: it happens also where it is cancelled before it has begun."""
        cdef Job job = Job.__new__(Job)
        job.function = function
        job.args = args
        job.kwargs = kwargs
        job.must = must
        job.future = Outcome(loop=self.loop)
        job.future.job = job
        self.jobs.append(job)
        if not self.has_taker() and self.callers < self.callers_max():
            try:
                self.add_caller()
            except BaseException:
                if self.callers == 0:
                    self.jobs.clear()
                    raise
        return job

    cdef bint has_taker(self) except -1:
        """Whether a thread that waits for a job takes the only one there is."""
        if not self.lingering or len(self.jobs) != 1:
            return False
        self.posted += 1
        aio_wake_one(&self.posted)
        return True

    cdef int callers_max(self) except -1:
        """As many as the executor has threads."""
        executor = getattr(self.loop, "_default_executor", None)
        return getattr(executor, "_max_workers", None) or min(32, (os.cpu_count() or 1) + 4)

    cdef int add_caller(self) except -1:
        """With many jobs a few calls in the executor do them all: each such call has its price, a job in it has not."""
        self.loop.run_in_executor(None, self.do_jobs).add_done_callback(self.end_caller)
        self.callers += 1
        return 0

    def do_jobs(self):
        """In a thread."""
        cdef Job job
        cdef bint stays
        cdef int left
        for left in range(JOBS_OF_A_CALL, 0, -1):
            try:
                job = self.jobs.popleft()
            except IndexError:
                return
            job.run()
            self.over.append(job)
            # One of the threads waits for the next job. It says so before the loop, being told of this one, asks for that.
            stays = left > 1 and not self.lingering
            if stays:
                self.lingering = True
            try:
                if not self.told:
                    self.told = True
                    self.loop.call_soon_threadsafe(self.end_jobs)
                if stays:
                    self.linger()
            except RuntimeError:  # the loop is closed
                return
            finally:
                if stays:
                    self.lingering = False

    cdef int linger(self) except -1:
        """In a thread: returns when there is a job, or after a time. The way by the executor costs more than many a job."""
        cdef timespec at_most
        cdef uint32_t seen
        cdef int64_t left
        cdef int64_t until = clock_ns() + LINGER_NS
        while not self.jobs:
            seen = self.posted
            left = until - clock_ns()
            if left <= 0:
                return 0
            to_timespec(left, &at_most)
            with nogil:
                aio_sleep_while(&self.posted, seen, &at_most)
        return 0

    def end_jobs(self):
        """In the loop's thread."""
        cdef Job job
        self.told = False
        while self.over:
            job = self.over.popleft()
            job.end()

    def end_caller(self, future):
        cdef Job job
        self.callers -= 1
        self.end_jobs()
        if not self.jobs or self.has_taker():
            return
        try:
            self.add_caller()
        except Exception as exc:  # the executor was shut down
            while self.jobs and self.callers == 0:
                job = self.jobs.popleft()
                job.error = exc
                job.end()

    async def finish(self, Job job):
        """Await what start() began. Cancelling ends this when the call is over, or will not begin. The CancelledError has what
        the call returned as its attribute `result`, None where it did not."""
        try:
            return await job.future
        except asyncio.CancelledError as exc:
            exc.result = job.result
            raise

    async def call(self, function, *args, **kwargs):
        """function(*args, **kwargs) in the loop's default executor. Cancelling waits until the function is over, if it has begun."""
        return await self.finish(self.start(function, args, kwargs))

    async def call_surely(self, function, *args):
        """call() of what cleans up: it happens, whatever becomes of the task."""
        return await self.finish(self.start(function, args, {}, True))


cdef int raise_for(Py_ssize_t ret) except -1:
    raise OSError(<int>-ret, os.strerror(<int>-ret))
