"""Callbacks, timers and the clock."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

from tools.compatibility.peers import in_thread, kind, later, raised
from tools.compatibility.registry import topic

probe = topic("Scheduling")
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@probe("call_soon runs callbacks in order, with their arguments, not at once")
async def call_soon():
    loop, calls, done = asyncio.get_running_loop(), [], asyncio.get_running_loop().create_future()
    for number in range(5):
        loop.call_soon(lambda *args: calls.append(args), number, "x")
    loop.call_soon(done.set_result, None)
    assert calls == []
    await done
    assert calls == [(number, "x") for number in range(5)]


@probe("call_soon(context=) runs the callback in that context, else in a copy of the current one")
async def contexts():
    loop, seen, done = asyncio.get_running_loop(), [], asyncio.get_running_loop().create_future()
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    variable.set("current")
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_later(0, lambda: seen.append(variable.get()), context=context)
    loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=context)
    loop.call_later(0.01, done.set_result, None)
    variable.set("changed")
    await done
    assert sorted(seen) == ["current", "given", "given", "given"], str(seen)


@probe("a cancelled handle does not run; cancelled() tells")
async def cancelling():
    loop, calls = asyncio.get_running_loop(), []
    handle = loop.call_soon(calls.append, "soon")
    timer = loop.call_later(0.001, calls.append, "later")
    assert not handle.cancelled() and not timer.cancelled()
    handle.cancel()
    timer.cancel()
    assert handle.cancelled() and timer.cancelled()
    await asyncio.sleep(0.01)
    assert calls == []


@probe("call_soon_threadsafe wakes an idle loop")
async def threadsafe():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    later(0.05, loop.call_soon_threadsafe, done.set_result, "woken")
    assert await asyncio.wait_for(done, 5) == "woken"


@probe("call_soon_threadsafe from many threads loses nothing and keeps each thread's order")
async def many_threads():
    loop, calls = asyncio.get_running_loop(), []

    def produce(name):
        for number in range(500):
            loop.call_soon_threadsafe(calls.append, (name, number))

    threads = [threading.Thread(target=produce, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    await in_thread(lambda: [thread.join() for thread in threads])
    while len(calls) < 2000:
        await asyncio.sleep(0.001)
    for name in range(4):
        assert [number for who, number in calls if who == name] == list(range(500)), "order lost"


@probe("run_coroutine_threadsafe and its cancellation work from another thread")
async def from_other_thread():
    loop, started = asyncio.get_running_loop(), threading.Event()

    async def answer(value):
        started.set()
        await asyncio.sleep(0 if value else 60)
        return value

    def ask():
        future = asyncio.run_coroutine_threadsafe(answer(0), loop)
        started.wait(5)
        future.cancel()
        return asyncio.run_coroutine_threadsafe(answer(42), loop).result(5), future.cancelled()

    assert await in_thread(ask) == (42, True)


@probe("call_later is never early, measured by time.monotonic()", promised=False)
async def never_early():
    loop = asyncio.get_running_loop()
    early = []

    def check(due, future):
        early.append(due - time.monotonic())
        future.set_result(None)

    for step in range(60):
        future, delay = loop.create_future(), 0.0003 + step * 0.000_07
        loop.call_later(delay, check, time.monotonic() + delay, future)
        await future
    assert max(early) < 1e-6, f"up to {max(early) * 1000:.2f} ms early"


@probe("call_at uses the clock of time(); the earlier deadline runs first")
async def call_at():
    loop, calls, done = asyncio.get_running_loop(), [], asyncio.get_running_loop().create_future()
    now = loop.time()
    loop.call_at(now + 0.03, done.set_result, None)
    for delay in (0.02, 0.005, 0.01):
        loop.call_at(now + delay, calls.append, delay)
    await done
    assert calls == [0.005, 0.01, 0.02]
    assert loop.time() >= now + 0.03 - 1e-6, "early by time()"


@probe("TimerHandle.when() is the deadline given to call_at")
async def when():
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 12.3456789
    handle = loop.call_at(deadline, print)
    assert abs(handle.when() - deadline) < 0.001, f"off by {(handle.when() - deadline) * 1000:.3f} ms"
    handle.cancel()


@probe("call_later with no or a negative delay runs soon")
async def past_deadlines():
    loop, calls, done = asyncio.get_running_loop(), [], asyncio.get_running_loop().create_future()
    loop.call_later(-5, calls.append, "past")
    loop.call_later(0, calls.append, "now")
    loop.call_later(0.005, done.set_result, None)
    await done
    assert sorted(calls) == ["now", "past"], str(calls)


@probe("time() is time.monotonic()", promised=False)
async def clock():
    await asyncio.sleep(0)
    difference = asyncio.get_running_loop().time() - time.monotonic()
    assert abs(difference) < 0.02, "another base"


@probe("time() moves on inside a callback", promised=False)
async def clock_moves():
    loop = asyncio.get_running_loop()
    before = loop.time()
    time.sleep(0.003)
    assert loop.time() - before >= 0.003 - 1e-6, f"{(loop.time() - before) * 1000:.1f} ms after 3 ms"


@probe("time() is finer than a millisecond", promised=False)
async def clock_resolution():
    loop, seen = asyncio.get_running_loop(), set()
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        seen.add(loop.time())
    assert len(seen) > 50, f"{len(seen)} values in 10 ms"


@probe("what call_soon and call_soon_threadsafe return is an asyncio.Handle")
async def handle_type():
    loop = asyncio.get_running_loop()
    for handle in (loop.call_soon(int), loop.call_soon_threadsafe(int)):
        assert isinstance(handle, asyncio.Handle), kind(handle)


@probe("what call_later and call_at return is an asyncio.TimerHandle")
async def timer_type():
    loop = asyncio.get_running_loop()
    for handle in (loop.call_later(1, int), loop.call_at(loop.time() + 1, int)):
        assert isinstance(handle, asyncio.TimerHandle), kind(handle)
        handle.cancel()


@probe("Handle.get_context returns the context", since=(3, 12))
async def handle_context():
    context = contextvars.copy_context()
    handle = asyncio.get_running_loop().call_soon(int, context=context)
    assert handle.get_context() is context


@probe("timers can be compared and sorted by deadline", promised=False)
async def timers_sort():
    loop = asyncio.get_running_loop()
    second, first = loop.call_later(20, int), loop.call_later(10, int)
    assert first < second and sorted([second, first])[0] is first
    first.cancel()
    second.cancel()


@probe("scheduling on a closed loop raises RuntimeError")
def closed(make_loop):
    loop = make_loop()
    loop.close()
    raised(RuntimeError, loop.call_soon, int)
    raised(RuntimeError, loop.call_soon_threadsafe, int)
    raised(RuntimeError, loop.call_later, 1, int)
    raised(RuntimeError, loop.call_at, 1, int)


@probe("asyncio.timeout and asyncio.timeout_at cut waits short", since=(3, 11))
async def timeouts():
    loop = asyncio.get_running_loop()
    for limit in (asyncio.timeout(0.01), asyncio.timeout_at(loop.time() + 0.01)):
        try:
            async with limit:
                await asyncio.sleep(60)
        except TimeoutError:
            assert limit.expired()
        else:
            raise AssertionError("no TimeoutError")
