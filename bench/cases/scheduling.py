"""Callbacks, timers, futures and tasks: small operations of a loop, with no network in the way."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from bench.cases.clock import Case, Clock

BATCH = 1000
TASKS = 200
# Enough timers that a loop has work for longer than they all take to fall due.
TIMERS = 10_000
TIMER_FIRST_S = 0.001  # uvloop runs what is due in under half a millisecond at once, without a timer
TIMER_SPREAD_S = 0.004
TIMER_STEP = 7919  # a prime: the timers are set in no order
FAR_S = 60.0  # a timer that never fires in a benchmark
IDLE_CONNECTIONS = 250


def nothing(*arguments: object) -> None:
    pass


async def _batches(clock: Clock, schedule: Callable[..., object], *arguments: object) -> None:
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
    clock.start()
    await done


async def call_soon(clock: Clock) -> None:
    await _batches(clock, asyncio.get_running_loop().call_soon)


async def call_soon_2(clock: Clock) -> None:
    await _batches(clock, asyncio.get_running_loop().call_soon, 1, 2)


async def call_soon_5(clock: Clock) -> None:
    await _batches(clock, asyncio.get_running_loop().call_soon, 1, 2, 3, 4, 5)


async def call_soon_threadsafe(clock: Clock) -> None:
    """From the loop's own thread."""
    await _batches(clock, asyncio.get_running_loop().call_soon_threadsafe)


async def chain_with_idle_connections(clock: Clock) -> None:
    """One callback at a time, each schedules the next, while the loop watches many silent connections.

    A loop that asks the kernel at every turn pays for it here, and by their number if its monitor is poll.
    """
    loop = asyncio.get_running_loop()
    ends = [end for _ in range(IDLE_CONNECTIONS) for end in socket.socketpair()]
    for end in ends:
        end.setblocking(False)
    transports = [(await loop.create_connection(asyncio.Protocol, sock=end))[0] for end in ends[::2]]
    done = loop.create_future()

    def link(left: int) -> None:
        if left:
            loop.call_soon(link, left - 1)
        elif clock.another(BATCH):
            loop.call_soon(link, BATCH - 1)
        else:
            done.set_result(None)

    loop.call_soon(link, BATCH - 1)
    clock.start()
    await done
    for transport in transports:
        transport.abort()
    for end in ends[1::2]:
        end.close()


async def timer_cancel(clock: Clock) -> None:
    """As timeouts do: many are set, none fires. The pause lets the loop clear away what was cancelled."""
    call_later = asyncio.get_running_loop().call_later
    clock.start()
    while True:
        for timer in [call_later(FAR_S, nothing) for _ in range(BATCH)]:
            timer.cancel()
        await asyncio.sleep(0)
        if not clock.another(BATCH):
            return


async def timers_fired(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    left = 0
    delays = [TIMER_FIRST_S + TIMER_SPREAD_S * (i * TIMER_STEP % TIMERS) / TIMERS for i in range(TIMERS)]

    def fired() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    clock.start()
    while True:
        left = TIMERS
        done = loop.create_future()
        for delay in delays:
            loop.call_later(delay, fired)
        await done
        if not clock.another(TIMERS):
            return


async def sleep_0(clock: Clock) -> None:
    sleep = asyncio.sleep
    clock.start()
    while True:
        for _ in range(BATCH):
            await sleep(0)
        if not clock.another(BATCH):
            return


async def future(clock: Clock) -> None:
    """A future that a callback resolves while a task awaits it."""
    loop = asyncio.get_running_loop()
    clock.start()
    while True:
        for _ in range(BATCH):
            waited = loop.create_future()
            loop.call_soon(waited.set_result, None)
            await waited
        if not clock.another(BATCH):
            return


async def task(clock: Clock) -> None:
    """A task is made and awaited, one after the other."""
    loop = asyncio.get_running_loop()

    async def short() -> None:
        pass

    clock.start()
    while True:
        for _ in range(BATCH):
            await loop.create_task(short())
        if not clock.another(BATCH):
            return


async def gather_200(clock: Clock) -> None:
    """Counted in tasks."""

    async def short() -> None:
        await asyncio.sleep(0)

    clock.start()
    while True:
        await asyncio.gather(*(short() for _ in range(TASKS)))
        if not clock.another(TASKS):
            return


async def thread_round_trip(clock: Clock) -> None:
    """Another thread has the loop call something, and waits until it did."""
    loop = asyncio.get_running_loop()
    called = threading.Lock()
    called.acquire()

    def ask() -> None:
        clock.start()
        while True:
            loop.call_soon_threadsafe(called.release)
            called.acquire()
            if not clock.another_one():
                return

    await loop.run_in_executor(None, ask)


async def run_in_executor(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, nothing)  # makes the thread
    clock.start()
    while True:
        await loop.run_in_executor(None, nothing)
        if not clock.another_one():
            return


CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        call_soon,
        call_soon_2,
        call_soon_5,
        call_soon_threadsafe,
        chain_with_idle_connections,
        timer_cancel,
        timers_fired,
        sleep_0,
        future,
        task,
        gather_200,
        thread_round_trip,
        run_in_executor,
    )
}
