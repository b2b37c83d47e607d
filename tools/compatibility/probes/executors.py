"""Executors."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
import time
import warnings

from tools.compatibility.peers import raised
from tools.compatibility.registry import topic

probe = topic("Executors")


@probe("run_in_executor: the default one, in another thread, with arguments; exceptions come back")
async def default():
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
    assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
    try:
        await loop.run_in_executor(None, divmod, 7, 0)
    except ZeroDivisionError:
        return
    raise AssertionError("no ZeroDivisionError")


@probe("run_in_executor with an executor of one's own, threads or processes")
async def own():
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        assert (await loop.run_in_executor(pool, threading.current_thread)).name.startswith("mine")
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        assert await loop.run_in_executor(pool, divmod, 7, 2) == (3, 1)


@probe("set_default_executor; anything but a ThreadPoolExecutor raises TypeError", since=(3, 11))
async def set_default():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine"))
    assert (await loop.run_in_executor(None, threading.current_thread)).name.startswith("mine")
    raised(TypeError, loop.set_default_executor, None)
    raised(TypeError, loop.set_default_executor, "executor")


@probe("to_thread keeps the context")
async def to_thread():
    variable = contextvars.ContextVar("variable")
    variable.set("kept")
    assert await asyncio.to_thread(variable.get) == "kept"


@probe("shutdown_default_executor waits for the threads; after it run_in_executor raises RuntimeError")
def shutdown(make_loop):
    finished = []
    with contextlib.closing(make_loop()) as loop:
        future = loop.run_in_executor(None, lambda: (time.sleep(0.02), finished.append(True)))
        loop.run_until_complete(loop.shutdown_default_executor())
        assert finished == [True]
        raised(RuntimeError, loop.run_in_executor, None, int)
        loop.run_until_complete(future)


# Documented from 3.12 on; 3.12.1's BaseEventLoop waits for ever, and so does what inherits from it.
@probe("shutdown_default_executor(timeout) does not wait for ever: RuntimeWarning", since=(3, 13))
def shutdown_timeout(make_loop):
    release = threading.Event()
    with contextlib.closing(make_loop()) as loop, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.run_in_executor(None, release.wait, 5)
        loop.run_until_complete(loop.shutdown_default_executor(timeout=0.02))
        release.set()
    assert any(issubclass(each.category, RuntimeWarning) for each in caught), "no RuntimeWarning"


@probe("a cancelled future of a call that has not begun: the call never runs")
async def cancelled():
    loop, calls, release = asyncio.get_running_loop(), [], threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = loop.run_in_executor(pool, release.wait, 5)
        second = loop.run_in_executor(pool, calls.append, 1)
        second.cancel()
        await asyncio.sleep(0)
        release.set()
        await first
        await loop.run_in_executor(pool, int)
    assert calls == []
