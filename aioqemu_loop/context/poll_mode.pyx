"""Poll mode: look for a few microseconds before sleeping, where that has paid off lately. QEMU's adaptive polling.

Falling asleep and being woken up costs more than the work for a small message, on a virtual machine by far. The rule
is QEMU's (aio-posix.c): 0 -> 4 us -> x2 ... up to the limit while events come that soon, back to 0 when they do not.

A spinning thread must not take the CPU from somebody who could use it. It yields: at once, and every few us. A peer on
the same CPU then runs and answers. If the CPU comes back only much later, somebody there has a lot to do (another
loop that spins, a computation): the context sleeps like any other, and tries again after a while, then after twice
that. So loops that are more than there are CPUs do not slow each other down; none has to know of the others.
"""

from libc.stdint cimport int64_t

from aioqemu_loop.context.notifier cimport Wakeup
from aioqemu_loop.fdmon.base cimport FDMon, ReadyList
from aioqemu_loop.system.atomics cimport aio_cpu_relax, aio_load_relaxed
from aioqemu_loop.system.libc cimport clock_ns

import cython

cdef extern from "<sched.h>" nogil:
    int sched_yield()

# QEMU's POLL_GROW start: the first spin is this long.
cdef int64_t FIRST_NS = 4_000
# What grow=0 means, as in QEMU.
cdef int64_t GROW = 2
# A look takes longer than this. It bounds a spin where the clock stands still, under libfaketime for instance.
cdef int64_t LOOK_MIN_NS = 10
cdef int64_t YIELD_EVERY_NS = 4_000
# A wait in which this thread slept also took the time to wake up, which on a virtual machine can be more than the limit:
# QEMU's rule alone would never begin. So a wait up to so many times the limit may be tried again by a whole spin, after
# that many such waits at first; after twice as many where it was in vain, at the most PROBE_MAX.
cdef int64_t PROBE_TIMES = 4
cdef int PROBE_FIRST = 8
cdef int PROBE_MAX = 1024
# Where the other end answers about as fast as the limit, a wait that was a little too long (as above) does not end it: two
# hits pay for one, and so many are remembered.
cdef int MISS_COSTS = 2
cdef int CREDIT_MAX = 8
# A yield that takes longer gave the CPU to more than the answer to a small message (some 10 us).
cdef int64_t CONTENDED_NS = 100_000
# Without poll mode after that: so many times what was lost, so it costs a hundredth at the most; twice as long as
# last time; not longer than this; and as for the first time when the last one is so long ago.
cdef int64_t REST_TIMES = 100
cdef int64_t REST_MAX_NS = 1_000_000_000
cdef int64_t REST_FORGOTTEN_NS = 10_000_000_000


@cython.final
cdef class PollMode:
    """One context's. All times in ns."""

    cdef int set_params(self, int64_t max_ns, int64_t grow, int64_t shrink) except -1:
        self.max_ns = max_ns
        self.grow = grow
        self.shrink = shrink
        self.ns = self.rest_ns = self.rest_until_ns = 0
        self.credit = 0
        self.probe_after = self.probe_in = PROBE_FIRST
        return 0

    cdef int64_t spin(self, FDMon monitor, Wakeup wakeup, ReadyList ready_list, int64_t timeout_ns) except? -2:
        """Look without sleeping for up to `ns`. Returns the time that is left to sleep: 0 if there is something."""
        cdef int64_t started, now, before, deadline, yield_ns
        cdef bint hit = False
        cdef int64_t lost = 0
        cdef int64_t looks_left
        if self.ns == 0:
            return timeout_ns
        started = now = yield_ns = clock_ns()
        if now < self.rest_until_ns or not monitor.begin_peek(ready_list):
            return timeout_ns
        deadline = now + (self.ns if timeout_ns < 0 else min(self.ns, timeout_ns))
        looks_left = (deadline - now) // LOOK_MIN_NS + 1
        with nogil:
            while now < deadline and looks_left > 0:
                looks_left -= 1
                if monitor.peek() or aio_load_relaxed(&wakeup.notified):
                    hit = True
                    break
                if now < yield_ns:
                    aio_cpu_relax()
                    now = clock_ns()
                    continue
                before = now
                sched_yield()
                now = clock_ns()
                yield_ns = now + YIELD_EVERY_NS
                if now - before > CONTENDED_NS:
                    lost = now - before
                    break
        now = clock_ns()
        self.spins += 1
        self.hits += hit
        self.spent_ns += now - started
        if lost:
            self.rest(now, lost)
        elif hit:
            self.probe_after = PROBE_FIRST
            self.credit = min(CREDIT_MAX, self.credit + 1)
        if hit or ready_list.size:
            return 0
        return timeout_ns if timeout_ns < 0 else max(0, timeout_ns - (now - started))

    cdef int rest(self, int64_t now, int64_t lost) except -1:
        if now - self.rest_until_ns > REST_FORGOTTEN_NS:
            self.rest_ns = 0
        self.rest_ns = min(REST_MAX_NS, max(lost * REST_TIMES, self.rest_ns * 2))
        self.rest_until_ns = now + self.rest_ns
        return 0

    cdef int adapt(self, int64_t block_ns) except -1:
        """After a wait that took `block_ns` in all: QEMU's rule, the probes, and some patience."""
        cdef bint close
        if block_ns <= self.ns:
            return 0
        if block_ns > self.max_ns:
            close = block_ns <= self.max_ns * PROBE_TIMES
            if self.ns and close and self.credit >= MISS_COSTS:
                self.credit -= MISS_COSTS
            elif self.ns:
                self.credit = 0
                if self.ns == self.max_ns:  # a shorter spin was no probe
                    self.probe_after = min(PROBE_MAX, self.probe_after * 2)
                    self.probe_in = self.probe_after
                self.ns = self.ns // self.shrink if self.shrink else 0
            elif close:
                self.probe_in -= 1
                if self.probe_in <= 0:
                    self.ns = self.max_ns
        elif self.ns == 0:
            self.ns = min(self.max_ns, FIRST_NS)
        else:
            self.ns = min(self.max_ns, self.ns * (self.grow or GROW))
        return 0
