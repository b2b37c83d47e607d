"""What bench.micro measures: small operations of a loop, with no network in the way.

Every case runs for about the seconds it is given and returns operations per second. The clock is read once
per batch where an operation takes less than a microsecond or two.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter

BATCH = 1000
TASKS = 200
# Enough timers that a loop has work for longer than they all take to fall due.
TIMERS = 10_000
TIMER_FIRST_S = 0.001  # uvloop runs what is due in under half a millisecond at once, without a timer
TIMER_SPREAD_S = 0.004
TIMER_STEP = 7919  # a prime: the timers are set in no order
FAR_S = 60.0  # a timer that never fires in a benchmark

Case = Callable[[float], Awaitable[float]]


def nothing(*arguments: object) -> None:
    pass


class Clock:
    """Counts operations until the time is up."""

    def __init__(self, seconds: float) -> None:
        self._count = 0
        self._began = perf_counter()
        self._until = self._began + seconds

    def another(self, operations: int) -> bool:
        """Note so many operations done. True while there is time for more."""
        self._count += operations
        self._now = perf_counter()
        return self._now < self._until

    def rate(self) -> float:
        return self._count / (self._now - self._began)


async def _batches(seconds: float, schedule: Callable[..., object], *arguments: object) -> float:
    """A callback schedules a batch and then itself, so a batch has run whenever it is called again."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for _ in range(BATCH):
        schedule(nothing, *arguments)

    def again() -> None:
        if not clock.another(BATCH):
            done.set_result(None)
            return
        for _ in range(BATCH):
            schedule(nothing, *arguments)
        schedule(again)

    schedule(again)
    clock = Clock(seconds)
    await done
    return clock.rate()


async def call_soon(seconds: float) -> float:
    return await _batches(seconds, asyncio.get_running_loop().call_soon)


async def call_soon_2_arguments(seconds: float) -> float:
    return await _batches(seconds, asyncio.get_running_loop().call_soon, 1, 2)


async def call_soon_threadsafe(seconds: float) -> float:
    """From the loop's own thread."""
    return await _batches(seconds, asyncio.get_running_loop().call_soon_threadsafe)


async def timer_cancel(seconds: float) -> float:
    """As timeouts do: many are set, none fires. The pause lets the loop clear away what was cancelled."""
    call_later = asyncio.get_running_loop().call_later
    clock = Clock(seconds)
    while clock.another(BATCH):
        for timer in [call_later(FAR_S, nothing) for _ in range(BATCH)]:
            timer.cancel()
        await asyncio.sleep(0)
    return clock.rate()


async def timers_fired(seconds: float) -> float:
    loop = asyncio.get_running_loop()
    left = 0
    delays = [TIMER_FIRST_S + TIMER_SPREAD_S * (i * TIMER_STEP % TIMERS) / TIMERS for i in range(TIMERS)]

    def fired() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    clock = Clock(seconds)
    while True:
        left = TIMERS
        done = loop.create_future()
        for delay in delays:
            loop.call_later(delay, fired)
        await done
        if not clock.another(TIMERS):
            return clock.rate()


async def sleep_0(seconds: float) -> float:
    sleep = asyncio.sleep
    clock = Clock(seconds)
    while clock.another(BATCH):
        for _ in range(BATCH):
            await sleep(0)
    return clock.rate()


async def future(seconds: float) -> float:
    """A future that a callback resolves while a task awaits it."""
    loop = asyncio.get_running_loop()
    clock = Clock(seconds)
    while clock.another(BATCH):
        for _ in range(BATCH):
            waited = loop.create_future()
            loop.call_soon(waited.set_result, None)
            await waited
    return clock.rate()


async def gather_200(seconds: float) -> float:
    """Counted in tasks."""

    async def task() -> None:
        await asyncio.sleep(0)

    clock = Clock(seconds)
    while clock.another(TASKS):
        await asyncio.gather(*(task() for _ in range(TASKS)))
    return clock.rate()


async def thread_round_trip(seconds: float) -> float:
    """Another thread has the loop call something, and waits until it did."""
    loop = asyncio.get_running_loop()
    called = threading.Lock()
    called.acquire()

    def ask() -> float:
        clock = Clock(seconds)
        while clock.another(1):
            loop.call_soon_threadsafe(called.release)
            called.acquire()
        return clock.rate()

    return await loop.run_in_executor(None, ask)


async def reader_ping_pong(seconds: float) -> float:
    """Two sockets, each with a reader that answers. Counted in messages."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    done = loop.create_future()
    clock = Clock(seconds)

    def answer(here: socket.socket) -> None:
        here.recv(1)
        if clock.another(1):
            here.send(b"x")
        elif not done.done():
            done.set_result(None)

    with left, right:
        for end in (left, right):
            end.setblocking(False)
            loop.add_reader(end.fileno(), answer, end)  # rloop only takes numbers
        left.send(b"x")
        await done
        for end in (left, right):
            loop.remove_reader(end.fileno())
    return clock.rate()


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        call_soon,
        call_soon_2_arguments,
        call_soon_threadsafe,
        timer_cancel,
        timers_fired,
        sleep_0,
        future,
        gather_200,
        thread_round_trip,
        reader_ping_pong,
    )
}
