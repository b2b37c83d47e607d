"""call_soon_threadsafe from sixteen threads: no wake-up and no callback is lost, whatever the loop does meanwhile.

AIOQEMU_TEST_CALLS: how many calls each thread makes, instead of a few.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import pytest

THREADS = 16
CALLS = int(os.environ.get("AIOQEMU_TEST_CALLS", "300"))


@pytest.fixture(autouse=True)
def often_another_thread():
    """Threads change places as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def storm(loop, call, until):
    """`call(n)` in each of the threads while the loop runs until `until` is done."""
    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    loop.run_until_complete(asyncio.wait_for(until, 50) if CALLS <= 300 else until)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("poll_max_ns", [0, 50_000], ids=["sleeping", "spinning"])
def test_each_call_wakes_the_loop(loop, poll_max_ns):
    """Each thread waits for its callback before it calls again, so the loop goes to sleep all the time."""
    loop.context.set_poll_params(poll_max_ns)
    over = loop.create_future()
    ran = [0] * THREADS
    came = [threading.Semaphore(0) for _ in range(THREADS)]

    def callback(number):
        ran[number] += 1
        came[number].release()
        if sum(ran) == THREADS * CALLS:
            over.set_result(None)

    def call(number):
        for _ in range(CALLS):
            loop.call_soon_threadsafe(callback, number)
            came[number].acquire()

    storm(loop, call, over)
    assert ran == [CALLS] * THREADS


def test_in_order_while_the_loop_is_busy(loop):
    over = loop.create_future()
    ran = [[] for _ in range(THREADS)]

    def busy():
        if not over.done():
            loop.call_soon(busy)

    def callback(number, i):
        ran[number].append(i)
        if i == CALLS - 1 and all(len(numbers) == CALLS for numbers in ran):
            over.set_result(None)

    def call(number):
        for i in range(CALLS):
            loop.call_soon_threadsafe(callback, number, i)

    loop.call_soon(busy)
    storm(loop, call, over)
    assert ran == [list(range(CALLS))] * THREADS


def call_until_closed(loop, ends):
    try:
        while True:
            loop.call_soon_threadsafe(int)
            time.sleep(0.0001)  # else the loop would never come to the end of its queue
    except RuntimeError as exc:
        ends.append(str(exc))


def test_while_the_loop_closes(loop_factory, no_leaks):
    """What is called before the end of the run may run or not; after close() it is a RuntimeError."""
    for _ in range(max(5, CALLS // 50)):
        loop = loop_factory()
        ends = []
        threads = [threading.Thread(target=call_until_closed, args=(loop, ends)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        loop.run_until_complete(asyncio.sleep(0.005))
        loop.close()
        for thread in threads:
            thread.join()
        assert ends == ["Event loop is closed"] * THREADS
