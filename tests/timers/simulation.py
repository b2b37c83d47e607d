"""Run under simulated_time.c: random timers over a day, set, cancelled and moved, also by each other's callbacks.

    python simulation.py BACKEND WHAT EXAMPLES

BACKEND is a monitor's name or "reference"; WHAT is "loop" (call_later, call_at, cancel) or "context" (AioContext's
timers, which can also be moved). Prints the hours that went by and the timers that fired.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import math
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECOND = 10**9
DAY = 24 * 3600 * SECOND
# Uptimes: from 104 days on a float no longer tells each ns from the next.
UPTIMES = [1000 * SECOND, 90 * DAY, 105 * DAY, 1000 * DAY, 10_000 * DAY]

# Delays of every magnitude, times that several timers share, the past, and the day's end.
delays = st.one_of(
    st.integers(0, DAY),
    st.integers(0, 10**4),
    st.integers(0, 10**7),
    st.sampled_from([-SECOND, -1, 0, 1, 999, 10**6, SECOND, 3600 * SECOND, DAY - 1, DAY]),
)
numbers = st.integers(0, 10**6)
operations = st.one_of(
    st.tuples(st.just("later"), delays),
    st.tuples(st.just("at"), delays),
    st.tuples(st.just("cancel"), numbers),
    st.tuples(st.just("move"), numbers, delays),
    st.tuples(st.just("many"), st.integers(1, 300), delays, st.sampled_from([0, 0, 1, 10**6, SECOND])),
    st.tuples(st.just("cancel many"), st.integers(2, 5), numbers),
)
worlds = st.fixed_dictionaries(
    {
        "tick_ns": st.sampled_from([0, 1, 60, 5000]),
        "percent": st.sampled_from([100, 100, 99, 40]),
        "late_ns": st.sampled_from([0, 0, 1, 50_000, 10**7]),
        "at_first": st.integers(1, 40),
        "per_callback": st.integers(0, 3),
    }
)


class Clock:
    """The simulated clock."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        for name in ("now_ns", "tick_ns", "late_ns", "percent"):
            setattr(self, name, ctypes.c_int64.in_dll(library, f"simulated_{name}"))

    def set(self, world) -> None:
        for name in ("tick_ns", "late_ns", "percent"):
            getattr(self, name).value = world[name]


class LoopTimers:
    """Timers of an asyncio loop; times are floats of its clock, as programs use them."""

    def __init__(self, backend: str) -> None:
        if backend == "reference":
            self.loop = asyncio.SelectorEventLoop()
            # It runs what is due within its clock's resolution, does not keep the order of equal times, and spins
            # without end where that resolution is less than a float's and the clock stands still.
            self.tolerance, self.stable, self.uptime_max = 1e-9, False, UPTIMES[1]
        else:
            import aioqemu_loop

            self.loop = aioqemu_loop.new_event_loop(fdmon=backend)
            assert self.loop.fdmon == backend
            self.tolerance, self.stable, self.uptime_max = 0.0, True, UPTIMES[-1]
        self.now = self.loop.time

    def grain(self, when):
        """What is closer together than this may be the same ns: then the order of setting counts."""
        return max(2e-9, math.ulp(when))

    def set(self, how, delay_ns, callback):
        if how == "later":
            handle = self.loop.call_later(delay_ns / 1e9, callback)
        else:
            # From whole seconds, so that many are set for exactly the same time.
            handle = self.loop.call_at(float(int(self.now())) + delay_ns / 1e9, callback)
        return handle, handle.when()

    def move(self, handle, delay_ns, callback):
        handle.cancel()
        return self.set("later", delay_ns, callback)

    def cancel(self, handle):
        handle.cancel()

    def run(self, left):
        def look():
            if left():
                self.loop.call_at(max(when for _, when, *_ in left().values()), look)
            else:
                self.loop.stop()

        look()
        self.loop.run_forever()

    def close(self):
        self.loop.close()


class ContextTimers:
    """AioContext's own timers; times are in ns."""

    tolerance, stable, uptime_max = 0, True, UPTIMES[-1]

    def __init__(self, backend: str) -> None:
        import aioqemu_loop

        self.context = aioqemu_loop.AioContext(backend)
        self.clock = Clock()

    def now(self):
        return self.clock.now_ns.value

    def grain(self, when):
        return 0

    def set(self, how, delay_ns, callback):
        return self.move(self.context.timer_new(callback), delay_ns, callback)

    def move(self, timer, delay_ns, callback):
        when = self.now() // SECOND * SECOND + delay_ns
        timer.mod_ns(when)
        return timer, when

    def cancel(self, timer):
        timer.delete()

    def run(self, left):
        while left():
            self.context.poll()

    def close(self):
        self.context.close()


class Day:
    """One example: what should happen, told step by step, and what does."""

    def __init__(self, timers, world, script) -> None:
        self.timers = timers
        self.script = iter(script)
        self.per_callback = world["per_callback"]
        self.pending = {}  # key -> (handle, when, order of setting, time of setting)
        self.keys = itertools.count()
        self.fired = 0

    def step(self, count) -> None:
        for operation, *arguments in itertools.islice(self.script, count):
            getattr(self, operation.replace(" ", "_"))(*arguments)

    def note(self, key, handle, when) -> None:
        self.pending[key] = (handle, when, next(self.keys), self.timers.now())

    def set(self, how, delay_ns) -> None:
        key = next(self.keys)
        self.note(key, *self.timers.set(how, delay_ns, lambda: self.fire(key)))

    def later(self, delay_ns):
        self.set("later", delay_ns)

    def at(self, delay_ns):
        self.set("at", delay_ns)

    def many(self, count, delay_ns, step_ns):
        for i in range(count):
            self.set("at", delay_ns + i * step_ns)

    def cancel(self, number) -> None:
        if self.pending:
            key = list(self.pending)[number % len(self.pending)]
            self.timers.cancel(self.pending.pop(key)[0])

    def cancel_many(self, keep_every, number) -> None:
        for i, key in enumerate(list(self.pending)):
            if (i + number) % keep_every:
                self.timers.cancel(self.pending.pop(key)[0])

    def move(self, number, delay_ns) -> None:
        if self.pending:
            key = list(self.pending)[number % len(self.pending)]
            handle = self.pending.pop(key)[0]
            self.note(key, *self.timers.move(handle, delay_ns, lambda: self.fire(key)))

    def fire(self, key) -> None:
        now = self.timers.now()
        assert key in self.pending, "fired twice, or although it was cancelled"
        _, when, order, _ = self.pending.pop(key)
        assert now >= when - self.timers.tolerance, f"early by {when - now}"
        for _, other_when, other_order, other_set in self.pending.values():
            if other_set >= when:
                continue  # set when this one was due already
            if other_when == when and self.timers.stable:
                assert other_order > order, "two of the same time in the wrong order"
            else:
                assert other_when >= when - self.timers.grain(when), "a later one came first"
        self.fired += 1
        self.step(self.per_callback)


def make_timers(backend: str, what: str):
    return LoopTimers(backend) if what == "loop" else ContextTimers(backend)


def run_day(timers, world, script) -> int:
    """Returns how many timers fired."""
    failures = []
    if isinstance(timers, LoopTimers):
        timers.loop.set_exception_handler(lambda loop, details: failures.append(details["exception"]))
    day = Day(timers, world, script)
    try:
        day.step(world["at_first"])
        timers.run(lambda: {} if failures else day.pending)
        if failures:
            raise failures[0]
        assert not day.pending
    finally:
        for handle, *_ in day.pending.values():  # the next example runs on the same loop
            timers.cancel(handle)
    return day.fired


def simulate(backend: str, what: str, examples: int) -> None:
    """`examples` at each uptime, on one loop each: the clock never goes back."""
    clock = Clock()
    fired = simulated_ns = 0
    for uptime in UPTIMES:
        timers = make_timers(backend, what)
        if uptime > timers.uptime_max:
            timers.close()
            break
        start = clock.now_ns.value = max(uptime, clock.now_ns.value)

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(world=worlds, script=st.lists(operations, min_size=1, max_size=60))
        def days(world, script):
            nonlocal fired
            clock.set(world)
            fired += run_day(timers, world, script)  # noqa: B023 - called below, in this turn of the loop

        days()
        simulated_ns += clock.now_ns.value - start
        timers.close()
    print(simulated_ns / 3600 / SECOND, fired)


if __name__ == "__main__":
    simulate(sys.argv[1], sys.argv[2], int(sys.argv[3]))
