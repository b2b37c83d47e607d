"""Ways to do what may block: a little of it at once, the rest by a thread. The third way is loop/operation.pyx."""

from libc.stdint cimport int64_t

from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.system.libc cimport clock_ns

import asyncio
import collections
import os

# What is done at once may take this much of a turn; then others get theirs.
cdef int64_t BUDGET_NS = 200_000


cdef class Job:
    """A call for a thread, and the future of its result. Between the look at `cancelled` and `begun` nobody else runs: no
    Python code, so the GIL is kept."""

    def __call__(self):
        if not self.cancelled:
            self.begun = True
            function, args, kwargs = self.function, self.args, self.kwargs
            self.let_go()
            return function(*args, **kwargs)

    cdef int let_go(self) except -1:
        """The executor holds the job for a moment after its result is known: buffers must be free by then."""
        self.function = self.args = self.kwargs = None
        return 0


cdef class Ways:
    """Of one event loop, any asyncio loop."""

    def __init__(self, loop):
        self.loop = loop
        self.core = loop if isinstance(loop, LoopCore) else None
        self.turn_over = self.end_turn
        self.waiting = collections.deque()

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

    cdef Job start(self, object function, tuple args, dict kwargs={}):
        """Begin a call in the loop's default executor."""
        cdef Job job = Job.__new__(Job)
        job.function = function
        job.args = args
        job.kwargs = kwargs
        job.future = self.loop.run_in_executor(None, job)
        return job

    async def finish(self, Job job, bint must=False):
        """Await what start() began. Cancelling ends this when the call is over, or will not begin (`must`: it will). The
        CancelledError has what the call returned as its attribute `result`, None where it did not."""
        try:
            return await asyncio.shield(job.future)
        except asyncio.CancelledError as exc:
            job.cancelled = not must
            if job.cancelled and not job.begun:
                job.let_go()
            while (job.begun or must) and not job.future.done():
                try:
                    await asyncio.wait([job.future])
                except asyncio.CancelledError:
                    continue
            exc.result = result_of(job.future)
            raise

    async def call(self, function, *args, **kwargs):
        """function(*args, **kwargs) in the loop's default executor. Cancelling waits until the function is over, if it has begun."""
        return await self.finish(self.start(function, args, kwargs))

    async def call_surely(self, function, *args):
        """call() of what cleans up: it happens, whatever becomes of the task."""
        return await self.finish(self.start(function, args), True)


cdef object result_of(future):
    """None where it has none."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()


cdef int raise_for(Py_ssize_t ret) except -1:
    raise OSError(<int>-ret, os.strerror(<int>-ret))
