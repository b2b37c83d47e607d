"""Running, stopping, closing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
import warnings

from tools.compatibility.peers import later, raised
from tools.compatibility.registry import topic

probe = topic("Lifecycle")


@probe("run_until_complete returns the result, or raises the exception")
def run_until_complete(make_loop):
    async def value():
        return 42

    async def error():
        raise LookupError("mine")

    with contextlib.closing(make_loop()) as loop:
        assert loop.run_until_complete(value()) == 42
        assert str(raised(LookupError, loop.run_until_complete, error())) == "mine"
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        assert loop.run_until_complete(future) == "future"


@probe("run_until_complete raises RuntimeError if stop() comes before the result", promised=False)
def stopped_early(make_loop):
    with contextlib.closing(make_loop()) as loop:
        future = loop.create_future()
        loop.call_soon(loop.stop)
        raised(RuntimeError, loop.run_until_complete, future)


@probe("run_forever runs until stop(), and again")
def run_forever(make_loop):
    with contextlib.closing(make_loop()) as loop:
        for _ in range(3):
            seen = []
            loop.call_later(0.001, lambda seen=seen: seen.append(loop.is_running()))
            loop.call_later(0.005, loop.stop)
            loop.run_forever()
            assert seen == [True] and not loop.is_running()


@probe("stop() finishes the batch; what was queued meanwhile waits for the next run")
def stop_finishes_batch(make_loop):
    with contextlib.closing(make_loop()) as loop:
        calls = []

        def first():
            loop.stop()
            loop.call_soon(calls.append, "next run")

        loop.call_soon(first)
        loop.call_soon(calls.append, "batch")
        loop.run_forever()
        assert calls == ["batch"], f"ran {calls}"
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert calls == ["batch", "next run"]


@probe("stop() before run_forever: one look at I/O and one batch, then it returns")
def stop_first(make_loop):
    with contextlib.closing(make_loop()) as loop:
        readable, writable = os.pipe()
        calls = []
        os.write(writable, b"x")
        loop.add_reader(readable, lambda: calls.append("reader"))
        loop.call_soon(calls.append, "soon")
        loop.stop()
        loop.run_forever()
        assert sorted(set(calls)) == ["reader", "soon"], f"ran {calls}"
        loop.remove_reader(readable)


@probe("close() can be repeated, not while running; a closed loop does not run")
def close(make_loop):
    loop = make_loop()

    async def inside():
        raised(RuntimeError, loop.close)

    loop.run_until_complete(inside())
    assert not loop.is_closed()
    loop.close()
    loop.close()
    assert loop.is_closed()
    raised(RuntimeError, loop.run_forever)


@probe("one loop at a time: running inside a running loop raises RuntimeError")
def nested(make_loop):
    async def inside(other):
        loop = asyncio.get_running_loop()
        raised(RuntimeError, loop.run_until_complete, loop.create_future())
        raised(RuntimeError, other.run_until_complete, other.create_future())

    with contextlib.closing(make_loop()) as loop, contextlib.closing(make_loop()) as other:
        loop.run_until_complete(inside(other))


@probe("get_running_loop is this loop inside, and none after")
def running_loop(make_loop):
    async def inside():
        return asyncio.get_running_loop()

    with contextlib.closing(make_loop()) as loop:
        assert loop.run_until_complete(inside()) is loop
        raised(RuntimeError, asyncio.get_running_loop)


@probe("KeyboardInterrupt and SystemExit of a callback come out; the loop runs on after")
def base_exceptions(make_loop):
    def leave(error):
        raise error

    with contextlib.closing(make_loop()) as loop:
        for error in (KeyboardInterrupt, SystemExit):
            calls = []
            loop.call_soon(leave, error)
            raised(error, loop.run_forever)
            loop.call_soon(calls.append, "again")
            loop.call_soon(loop.stop)
            loop.run_forever()
            assert calls == ["again"] and not loop.is_running()


@probe("shutdown_asyncgens closes generators that were left half-way")
def asyncgens(make_loop):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def begin():
        generator = numbers()
        await generator.__anext__()
        return generator

    with contextlib.closing(make_loop()) as loop:
        generator = loop.run_until_complete(begin())
        loop.run_until_complete(loop.shutdown_asyncgens())
        assert closed == [True] and generator is not None


@probe("a generator that is garbage half-way is closed by the loop")
async def dropped_asyncgen():
    closed = asyncio.Event()

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.set()

    async for _ in numbers():
        break
    gc.collect()
    await asyncio.wait_for(closed.wait(), 5)


@probe("ResourceWarning for a loop that was not closed")
def unclosed(make_loop):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = make_loop()
        loop.call_soon(loop.stop)
        loop.run_forever()
        del loop
        gc.collect()
    assert any(issubclass(each.category, ResourceWarning) for each in caught), "no ResourceWarning"


@probe("asyncio.Runner(loop_factory=) runs, keeps its loop between runs, and closes it", since=(3, 11))
def runner(make_loop):
    async def inside():
        return asyncio.get_running_loop()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        loop = runner.run(inside())
        assert runner.run(inside()) is loop is runner.get_loop()
    assert loop.is_closed()


@probe("asyncio.run(loop_factory=) cancels what is left and closes the loop", since=(3, 12))
def run(make_loop):
    cancelled = []

    async def forever():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def inside():
        asyncio.get_running_loop().task = asyncio.ensure_future(forever())
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    assert asyncio.run(inside(), loop_factory=make_loop).is_closed()
    assert cancelled == [True]


@probe("Ctrl-C on an idle loop: KeyboardInterrupt comes out of run_forever")
def interrupt(make_loop):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with contextlib.closing(make_loop()) as loop:
        later(0.1, os.kill, os.getpid(), signal.SIGINT)
        before = time.monotonic()
        raised(KeyboardInterrupt, loop.run_forever)
        assert time.monotonic() - before < 4, "late"
        loop.run_until_complete(asyncio.sleep(0))


@probe("Ctrl-C under asyncio.Runner cancels the main task", since=(3, 11))
def interrupt_runner(make_loop):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = []

    async def idle():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with asyncio.Runner(loop_factory=make_loop) as runner:
        later(0.1, os.kill, os.getpid(), signal.SIGINT)
        raised(KeyboardInterrupt, runner.run, idle())
    assert seen == ["cancelled"]


@probe("as the loop of set_event_loop it is what get_event_loop gives")
def set_event_loop(make_loop):
    with contextlib.closing(make_loop()) as loop, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.set_event_loop(loop)
        assert asyncio.get_event_loop() is loop
        asyncio.set_event_loop(None)
