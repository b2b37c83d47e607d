"""IOThread: what programs hold."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aioqemu_loop.context.poll_params import DEFAULT_NS, checked_factor
from aioqemu_loop.iothread import adoption
from aioqemu_loop.iothread.calls import AwaitedCall, SubmittedCall
from aioqemu_loop.iothread.worker import Worker
from aioqemu_loop.loop.loop import Loop

if TYPE_CHECKING:
    from aioqemu_loop.context.aio_context import AioContext
    from aioqemu_loop.fdmon.base import FDMon
    from aioqemu_loop.loop.elsewhere import Connection

T = TypeVar("T")

_made: list[weakref.ref[IOThread]] = []


def iothreads() -> list[IOThread]:
    """Those of this process that run, in the order in which they were made. Thread-safe."""
    found = [made() for made in list(_made)]
    return [thread for thread in found if thread is not None and thread.running]


class IOThread:
    """A thread with its own loop, running from the moment it is made until stop() or the end of the with block.

    fdmon: as for Loop; poll_max_ns, poll_grow, poll_shrink: busy polling before the loop sleeps, see
    AioContext.set_poll_params; in [0, 2**63), also settable while it runs. Raises ValueError, TypeError,
    FDMonUnavailable, OSError. All methods and properties are thread-safe. A child that was forked has no such thread:
    `running` is False there, stop() does nothing, and what needs the thread raises RuntimeError. One that nobody stops
    ends with the interpreter.
    """

    def __init__(
        self,
        name: str,
        *,
        fdmon: str | FDMon | Callable[[], FDMon] = "auto",
        poll_max_ns: int = DEFAULT_NS,
        poll_grow: int = 0,
        poll_shrink: int = 0,
    ) -> None:
        self._poll_max_ns = checked_factor("poll_max_ns", poll_max_ns)
        self._poll_grow = checked_factor("poll_grow", poll_grow)
        self._poll_shrink = checked_factor("poll_shrink", poll_shrink)
        loop = Loop(fdmon, poll_max_ns)
        loop.context.set_poll_params(poll_max_ns, poll_grow, poll_shrink)
        self._worker = Worker(name, loop)
        _made.append(weakref.ref(self, _made.remove))

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<IOThread {self.name!r} {state} fdmon={self.fdmon}>"

    def __enter__(self) -> IOThread:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        if hasattr(self, "_worker") and self.running:
            warnings.warn(f"IOThread {self.name!r} was not stopped", ResourceWarning, stacklevel=2, source=self)
            self._worker.request_stop()

    # -- what it is --

    @property
    def name(self) -> str:
        return self._worker.name

    @property
    def loop(self) -> Loop:
        """The thread's loop. Other threads may call its call_soon_threadsafe()."""
        return self._worker.loop

    @property
    def context(self) -> AioContext:
        """The loop's AioContext."""
        return self._worker.loop.context

    @property
    def fdmon(self) -> str:
        """Name of the fd monitor in use."""
        return self._worker.loop.fdmon

    @property
    def thread_id(self) -> int:
        """The number that the kernel has given the thread, as QEMU's thread-id."""
        number = self._worker.thread.native_id
        assert number is not None  # it has been started
        return number

    @property
    def running(self) -> bool:
        """False from the moment it is asked to stop, and in a child that was forked."""
        return self._worker.running and self._worker.is_ours

    # -- busy polling --

    @property
    def poll_max_ns(self) -> int:
        """Longest busy polling before the loop sleeps, in ns; 0: none."""
        return self._poll_max_ns

    @poll_max_ns.setter
    def poll_max_ns(self, value: int) -> None:
        self._poll_max_ns = checked_factor("poll_max_ns", value)
        self._poll_params_changed()

    @property
    def poll_grow(self) -> int:
        """The factor while events come soon; 0 means 2."""
        return self._poll_grow

    @poll_grow.setter
    def poll_grow(self, value: int) -> None:
        self._poll_grow = checked_factor("poll_grow", value)
        self._poll_params_changed()

    @property
    def poll_shrink(self) -> int:
        """The divisor when they do not; 0 means that it stops for now."""
        return self._poll_shrink

    @poll_shrink.setter
    def poll_shrink(self, value: int) -> None:
        self._poll_shrink = checked_factor("poll_shrink", value)
        self._poll_params_changed()

    def _poll_params_changed(self) -> None:
        self.context.set_poll_params(self._poll_max_ns, self._poll_grow, self._poll_shrink)
        if self.running:
            self._worker.hand_in(lambda: None)

    # -- GLib --

    def get_g_main_context(self) -> Any:
        """QEMU's iothread_get_g_main_context: a GLib.MainContext whose sources the thread runs from now on.

        The thread changes from its own way of running to iterating that main context, for good: its loop becomes a
        source there by use_g_source()'s classic rule, so fdmon is "poll" then, soon after this returns. It is the
        thread's default main context and the same one each time; its loop is the running one in GLib's callbacks.
        Raises ImportError where PyGObject is missing, RuntimeError where the IOThread is stopped.
        """
        return self._worker.get_g_main_context()

    # -- running coroutines --

    def submit(self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine in the thread. Cancelling the future cancels its task; stop() does, too.

        Raises TypeError for what is no coroutine, RuntimeError where the IOThread is stopped.
        """
        call = SubmittedCall(self._worker, coro)
        call.begin()
        return call.future

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread and return its result, or raise its exception, as if a task were awaited here:
        cancelling this cancels the task there, and its end is waited for. Raises as submit() does."""
        if asyncio.get_running_loop() is self.loop:
            if not asyncio.iscoroutine(coro):
                raise TypeError(f"a coroutine was expected, got {coro!r}")
            return await self.loop.create_task(coro)
        call = AwaitedCall(self._worker, coro)
        call.begin()
        result: T = await call.future
        return result

    async def adopt(self, transport: asyncio.BaseTransport) -> None:
        """Move a TCP or Unix stream transport of the running loop to this thread's loop.

        No byte is lost or overtakes another in either direction; what is still to be sent is sent from there, and the
        protocol, which stays the same, is called there. asyncio's streams move along. When this returns nothing may be
        done with the transport in the old thread, but close() and abort(), which do their work in the new one. Raises
        TypeError for other transports, TLS included, and RuntimeError where the transport is not the running loop's, is
        closing, sends a file, or has somebody waiting in its StreamReader, drain() or wait_closed(), or where the
        IOThread is stopped. Nothing has changed then.
        """
        await adoption.adopt(self, transport)

    # -- the end --

    def stop(self) -> None:
        """Cancel the tasks, close the connections, wait for their end, and join the thread. Exceptions of tasks that
        nobody else sees go to the loop's exception handler. Raises RuntimeError in the IOThread itself and in its
        default executor, which would wait for themselves."""
        self.check_stoppable()
        self._request_stop()
        if self._worker.is_ours:
            self._worker.thread.join()

    def check_stoppable(self) -> None:
        """Raises RuntimeError where stop() would wait for the thread that calls."""
        if self._worker.is_ours and self._worker.waits_for(threading.current_thread()):
            raise RuntimeError(f"IOThread {self.name!r} cannot stop itself")

    def _request_stop(self) -> None:
        if self._worker.is_ours:
            self._worker.request_stop()

    # -- what servers ask, see loop/elsewhere.py --

    @property
    def connections(self) -> set[Connection]:
        """Those that it was given by servers or adopted, while they are open."""
        return self._worker.connections

    def hand_in(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
        first: Callable[[], Any] | None = None,
    ) -> None:
        """Have the thread call `callback(*args)`, after a call of `first` here. Raises RuntimeError, before it calls
        anything, where the thread is stopped."""
        self._worker.hand_in(callback, *args, context=context, first=first)
