"""Ways to do what may block: a little of it at once, the rest by a thread. The third way is loop/operation.pyx."""

from libc.stdint cimport int64_t

from aioqemu_loop.loop.core cimport LoopCore
from aioqemu_loop.system.libc cimport clock_ns

import asyncio
import os

# What is done at once may take this much of a turn; then others get theirs.
cdef int64_t BUDGET_NS = 200_000


cdef class Job:
    """A call for a thread, which is not begun any more after `cancelled`, and the future of its result."""

    def __call__(self):
        if not self.cancelled:
            return self.function(*self.args, **self.kwargs)


cdef class Ways:
    """Of one event loop, any asyncio loop."""

    def __init__(self, loop):
        self.loop = loop
        self.core = loop if isinstance(loop, LoopCore) else None
        self.turn_over = self.end_turn

    def end_turn(self):
        self.in_turn = False

    cdef bint spent(self) except -1:
        """Whether what is done at once has had its share of this turn."""
        if not self.in_turn:
            self.in_turn = True
            self.turn_ns = clock_ns()
            self.loop.call_soon(self.turn_over)
            return False
        return clock_ns() - self.turn_ns > BUDGET_NS

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
        """Await what start() began. Cancelling ends this when the call is over, or will not begin (`must`: it will)."""
        try:
            return await asyncio.shield(job.future)
        except asyncio.CancelledError:
            job.cancelled = not must
            while not job.future.done():
                try:
                    await asyncio.wait([job.future])
                except asyncio.CancelledError:
                    continue
            raise

    async def call(self, function, *args, **kwargs):
        """function(*args, **kwargs) in the loop's default executor. Cancelling waits until the function is over, if it has begun."""
        return await self.finish(self.start(function, args, kwargs))


cdef int raise_for(Py_ssize_t ret) except -1:
    raise OSError(<int>-ret, os.strerror(<int>-ret))
