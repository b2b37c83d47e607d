"""Exception handlers, debug mode, warnings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import time

from tools.compatibility.peers import in_thread, raised
from tools.compatibility.registry import topic

probe = topic("Errors and debug mode")


@contextlib.contextmanager
def logged():
    """The records of asyncio's logger."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield records
    finally:
        logger.removeHandler(handler)


def fail(error=None):
    raise error or LookupError("mine")


async def handled(loop, start):
    """What the exception handler is told after start()."""
    told = loop.create_future()
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda *args: told.done() or told.set_result(args))
    start()
    args = await asyncio.wait_for(told, 5)
    loop.set_exception_handler(old)
    return args


@probe("set_exception_handler: called with loop and context, with message, exception and handle")
async def exception_handler():
    loop = asyncio.get_running_loop()
    handle = []
    got_loop, context = await handled(loop, lambda: handle.append(loop.call_soon(fail)))
    assert got_loop is loop
    assert type(context["exception"]) is LookupError and context["handle"] is handle[0] and context["message"]


@probe("get_exception_handler: None at first; only a callable or None can be set")
def get_exception_handler(make_loop):
    with contextlib.closing(make_loop()) as loop:
        assert loop.get_exception_handler() is None
        loop.set_exception_handler(print)
        assert loop.get_exception_handler() is print
        raised(TypeError, loop.set_exception_handler, 5)
        loop.set_exception_handler(None)
        assert loop.get_exception_handler() is None


@probe("call_exception_handler calls it at once")
async def call_exception_handler():
    loop, seen = asyncio.get_running_loop(), []
    old = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: seen.append(context))
    loop.call_exception_handler({"message": "hello"})
    assert seen == [{"message": "hello"}]
    loop.set_exception_handler(old)


@probe("default_exception_handler logs message and traceback")
def default_handler(make_loop):
    with contextlib.closing(make_loop()) as loop, logged() as records:
        loop.default_exception_handler({"message": "hello", "exception": LookupError("x")})
        assert len(records) == 1 and "hello" in records[0].getMessage() and records[0].exc_info


@probe("an exception in a callback is logged and stops nothing")
def exception_in_callback(make_loop):
    with contextlib.closing(make_loop()) as loop, logged() as records:
        calls = []
        loop.call_soon(fail)
        loop.call_later(0, fail)
        loop.call_soon(calls.append, "after")
        loop.call_later(0.005, loop.stop)
        loop.run_forever()
        assert calls == ["after"] and len(records) == 2, f"{len(records)} records"
        assert "fail" in records[0].getMessage()


@probe("an exception in the exception handler is logged, and stops nothing")
def exception_in_handler(make_loop):
    with contextlib.closing(make_loop()) as loop, logged() as records:
        loop.set_exception_handler(lambda loop, context: fail())
        loop.call_soon(fail)
        loop.call_later(0.005, loop.stop)
        loop.run_forever()
        assert records, "nothing is logged"


@probe("a pending task that is garbage is told to the exception handler")
async def destroyed_task():
    loop = asyncio.get_running_loop()

    async def waits():
        await loop.create_future()

    def lose():
        asyncio.ensure_future(waits())
        loop.call_later(0.02, gc.collect)  # when the task waits

    _, context = await handled(loop, lose)
    assert "destroyed" in context["message"]


@probe("an exception that nobody asked for is told to the exception handler")
async def never_retrieved():
    loop = asyncio.get_running_loop()

    def lose():
        loop.create_future().set_exception(LookupError())
        gc.collect()

    _, context = await handled(loop, lose)
    assert "never retrieved" in context["message"]


@probe("set_debug, get_debug")
def debug(make_loop):
    with contextlib.closing(make_loop()) as loop:
        loop.set_debug(True)
        assert loop.get_debug()
        loop.set_debug(False)
        assert not loop.get_debug()


@probe("debug mode: a slow callback is logged with its time; slow_callback_duration is the limit")
def slow_callback(make_loop):
    with contextlib.closing(make_loop()) as loop, logged() as records:
        assert loop.slow_callback_duration == 0.1
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        loop.call_soon(time.sleep, 0.02)
        loop.call_soon(loop.stop)
        loop.run_forever()
        (text,) = (record.getMessage() for record in records if record.levelno == logging.WARNING)
        took = re.fullmatch(r"Executing <.*> took (\d\.\d{3}) seconds", text)
        assert took and 0.02 <= float(took[1]) < 5, text


@probe("debug mode: call_soon, call_later and call_at of another thread raise RuntimeError")
async def wrong_thread():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)

    def try_all():
        raised(RuntimeError, loop.call_soon, int)
        raised(RuntimeError, loop.call_later, 1, int)
        raised(RuntimeError, loop.call_at, loop.time(), int)
        loop.call_soon_threadsafe(int)

    await in_thread(try_all)


@probe("debug mode: call_soon refuses coroutine functions and what cannot be called")
async def not_callbacks():
    async def coroutine():
        pass

    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    raised(TypeError, loop.call_soon, coroutine)
    raised(TypeError, loop.call_soon, 5)
    raised(TypeError, loop.call_later, 0, coroutine)


@probe("debug mode: the error of a callback says where it was scheduled")
async def source_traceback():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    _, context = await handled(loop, lambda: loop.call_soon(fail))
    assert "source_traceback" in context, "no source_traceback"
    assert any(frame.name == "source_traceback" for frame in context["source_traceback"])


@probe("debug mode: coroutine origins are tracked while the loop runs, not after")
def origins(make_loop):
    depths = []
    with contextlib.closing(make_loop()) as loop:
        loop.set_debug(True)
        loop.call_soon(lambda: depths.append(sys.get_coroutine_origin_tracking_depth()))
        loop.call_soon(loop.stop)
        loop.run_forever()
    depths.append(sys.get_coroutine_origin_tracking_depth())
    assert depths[0] > 0 and depths[1] == 0, str(depths)


@probe("set_debug on a running loop of another thread takes effect", promised=False)
async def debug_while_running():
    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=loop.set_debug, args=(True,))
    thread.start()
    await in_thread(thread.join)
    await asyncio.sleep(0.001)
    assert loop.get_debug() and sys.get_coroutine_origin_tracking_depth() > 0


@probe("PYTHONASYNCIODEBUG and -X dev switch debug mode on for new loops")
def debug_from_outside(make_loop):
    code = f"from tools.compatibility import loops; print(loops.Maker({make_loop.name!r})().get_debug())"
    for options, variables in ((["-X", "dev"], {}), ([], {"PYTHONASYNCIODEBUG": "1"})):
        command = [sys.executable, *options, "-W", "ignore", "-c", code]
        environment = {**os.environ, **variables, "PYTHONPATH": os.getcwd()}
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        assert result.stdout.strip() == "True", f"{options or variables}"
