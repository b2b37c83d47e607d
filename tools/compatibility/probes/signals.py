"""Signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from tools.compatibility.peers import in_thread, later, raised
from tools.compatibility.registry import topic

probe = topic("Signals")
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


def send(number):
    os.kill(os.getpid(), number)


@probe("add_signal_handler with arguments; remove_signal_handler tells whether there was one")
async def add():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_signal_handler(USR1, lambda *args: done.set_result(args), 1, "two")
    send(USR1)
    assert await asyncio.wait_for(done, 5) == (1, "two")
    assert loop.remove_signal_handler(USR1) is True and loop.remove_signal_handler(USR1) is False


@probe("a signal wakes an idle loop")
async def wakes():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_signal_handler(USR1, done.set_result, "woken")
    later(0.05, send, USR1)
    assert await asyncio.wait_for(done, 5) == "woken"
    loop.remove_signal_handler(USR1)


@probe("a second handler replaces the first; two signals, two handlers")
async def replace():
    loop, calls = asyncio.get_running_loop(), []
    loop.add_signal_handler(USR1, calls.append, "old")
    loop.add_signal_handler(USR1, calls.append, "new")
    loop.add_signal_handler(USR2, calls.append, "other")
    send(USR1)
    send(USR2)
    while len(calls) < 2:
        await asyncio.sleep(0.001)
    assert sorted(calls) == ["new", "other"]
    loop.remove_signal_handler(USR1)
    loop.remove_signal_handler(USR2)


@probe("remove_signal_handler gives the default action back; that of SIGINT raises KeyboardInterrupt")
async def default_action():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, int)
    loop.add_signal_handler(USR1, int)
    loop.remove_signal_handler(signal.SIGINT)
    loop.remove_signal_handler(USR1)
    assert signal.getsignal(USR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@probe("SIGCHLD can be handled")
async def sigchld():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.add_signal_handler(signal.SIGCHLD, done.set_result, None)
    pid = os.posix_spawn("/bin/true", ["true"], {})
    await asyncio.wait_for(done, 5)
    os.waitpid(pid, 0)
    loop.remove_signal_handler(signal.SIGCHLD)


@probe("no such signal: ValueError; SIGKILL: RuntimeError; a coroutine function: TypeError")
async def refusals():
    async def coroutine():
        pass

    loop = asyncio.get_running_loop()
    raised(ValueError, loop.add_signal_handler, 1000, int)
    raised(RuntimeError, loop.add_signal_handler, signal.SIGKILL, int)
    raised(TypeError, loop.add_signal_handler, USR1, coroutine)


@probe("not in the main thread: ValueError or RuntimeError")
async def other_thread():
    loop = asyncio.get_running_loop()
    await in_thread(lambda: raised((ValueError, RuntimeError), loop.add_signal_handler, USR1, int))


@probe("handlers of signal.signal run while the loop is idle, in the main thread")
async def plain_handler():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    signal.signal(USR1, lambda number, frame: loop.call_soon_threadsafe(done.set_result, number))
    later(0.05, send, USR1)
    assert await asyncio.wait_for(done, 5) == USR1


@probe("an exception of a handler of signal.signal comes out of run_forever", promised=False)
def raising_handler(make_loop):
    def fail(number, frame):
        raise LookupError

    signal.signal(USR1, fail)
    with contextlib.closing(make_loop()) as loop:
        later(0.05, send, USR1)
        raised(LookupError, loop.run_forever)


@probe("close gives signals and set_wakeup_fd back", promised=False)
def close(make_loop):
    loop = make_loop()
    loop.add_signal_handler(USR1, int)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert signal.getsignal(USR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
