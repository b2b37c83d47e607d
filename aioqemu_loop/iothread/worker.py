"""Worker: the thread of an IOThread, its loop, and how both end. It does not know the IOThread, so that one which
nobody holds any more can be noticed.

Everything comes in by hand_in(), which either raises or has the loop's promise: whatever was handed in before the end
is run, because the flag and the queue change under one lock, and winding up begins with what is queued.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any

from aioqemu_loop.loop.loop import Loop

if TYPE_CHECKING:
    from aioqemu_loop.iothread.calls import Call
    from aioqemu_loop.loop.elsewhere import Connection

# How long the interpreter's exit waits for threads that nobody has stopped, in seconds, all of them together.
EXIT_PATIENCE = 5.0
# An aborted connection is over within two or three turns.
ABORT_TURNS = 100

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


class Worker:
    """Starts the thread; raises what the loop's first turn raises, or RuntimeError where no thread can be had. The loop
    is closed then."""

    def __init__(self, name: str, loop: Loop) -> None:
        self.name = name
        self.loop = loop
        self.running = True
        self.calls: set[Call] = set()
        self.connections: set[Connection] = set()
        self._lock = threading.RLock()  # garbage collection may stop another IOThread while it is held
        self._pid = os.getpid()
        self._failure: BaseException | None = None
        self._exiting = False
        self._main_context: Any = None
        begun = threading.Event()
        loop.call_soon(begun.set)
        # A daemon, as it must not keep the interpreter from exiting: _stop_all() ends it in good order then.
        self.thread = threading.Thread(target=self._main, args=(begun,), name=name, daemon=True)
        try:
            self.thread.start()
        except BaseException:
            loop.close()
            raise
        _workers.add(self)
        try:
            begun.wait()
        except BaseException:  # KeyboardInterrupt
            self.request_stop()
            raise
        if self._failure is not None:
            self.thread.join()
            raise self._failure

    @property
    def is_ours(self) -> bool:
        """False in a child that was forked since: the thread is not there."""
        return self._pid == os.getpid()

    def waits_for(self, thread: threading.Thread) -> bool:
        """Whether the thread's end has to wait for `thread`: itself, and those of the loop's default executor."""
        if thread is self.thread:
            return True
        executor: Any = getattr(self.loop, "_default_executor", None)
        if not isinstance(executor, ThreadPoolExecutor):
            return False
        with executor._shutdown_lock:  # its threads begin to work before they are in the set
            return thread in executor._threads

    def hand_in(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
        first: Callable[[], Any] | None = None,
    ) -> None:
        """Have the thread call `callback(*args)`, after a call of `first` here. Thread-safe. Raises RuntimeError
        before it calls anything, where the thread will not."""
        if not self.is_ours:
            raise RuntimeError(f"IOThread {self.name!r} was made in another process; its thread does not run here")
        with self._lock:
            if not self.running:
                raise RuntimeError(f"IOThread {self.name!r} is stopped")
            if first is not None:
                first()
            self.loop.call_soon_threadsafe(callback, *args, context=context)

    def request_stop(self) -> None:
        """Let the thread end soon. Thread-safe."""
        with self._lock:
            if self.running:
                self.running = False
                self.loop.call_soon_threadsafe(self.loop.stop)

    def get_g_main_context(self) -> Any:
        """A GLib.MainContext that the thread iterates from now on, soon. Thread-safe."""
        from gi.repository import GLib

        import aioqemu_loop.glib  # noqa: F401 (says what to install)

        def note() -> None:
            if self._main_context is None:
                self._main_context = GLib.MainContext.new()

        self.hand_in(self._change_route, first=note)
        return self._main_context

    # -- in the thread --

    def _change_route(self) -> None:
        """Back to _main(), if run_forever() is what runs."""
        if not self.loop.context.g_source_mode:
            self.loop.stop()

    def _main(self, begun: threading.Event) -> None:
        """QEMU's iothread_run: by itself, and by a GLib main context once somebody has asked for that."""
        try:
            self._serve()
        except BaseException as exc:  # the monitor cannot go on
            if begun.is_set():
                self._report("cannot go on", exc)
            else:
                self._failure = exc
        finally:
            if self._failure is None:
                self._wind_up()
            else:
                self.loop.close()
            begun.set()

    def _serve(self) -> None:
        try:
            while self.running:
                self._run_loop()
        finally:
            with self._lock:
                self.running = False

    def _run_loop(self) -> None:
        """run_forever(), by one route or the other. SystemExit and KeyboardInterrupt end the program of the main
        thread, not this one."""
        try:
            if self._main_context is None:
                self.loop.run_forever()
            else:
                self._run_glib()
        except (SystemExit, KeyboardInterrupt) as exc:
            self._report("exit asked for by a callback", exc)

    def _run_glib(self) -> None:
        from aioqemu_loop.glib.serving import serve_forever

        if not self.loop.context.g_source_mode:
            self.loop.use_g_source()
        serve_forever(self.loop, self._main_context)

    def _run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._run_loop()

    def _report(self, message: str, exc: BaseException, **details: Any) -> None:
        told = {"message": f"IOThread {self.name!r}: {message}", "exception": exc, **details}
        try:
            self.loop.call_exception_handler(told)
        except (SystemExit, KeyboardInterrupt):  # the program's handler asks for them; see _run_loop()
            self.loop.default_exception_handler(told)

    def _turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self._run_loop()

    def _wind_up(self) -> None:
        """As asyncio.Runner ends: no task, no connection, no generator and no executor is left behind."""
        try:
            self._turn()  # what was handed in before the end
            self._end_tasks_and_connections()
            self._wait_for([self.loop.create_task(self.loop.shutdown_asyncgens())])
            self._shut_down_executor()
        except BaseException as exc:
            self._report("error while stopping", exc)
        finally:
            for call in list(self.calls):
                call.abandon()
            for connection in list(self.connections):
                connection.forget()
            self.loop.close()

    def _end_tasks_and_connections(self) -> None:
        aborts = 0
        while True:
            tasks = asyncio.all_tasks(self.loop)
            # A task factory's tasks may be unknown to asyncio.
            tasks.update(call.task for call in self.calls if call.task is not None and not call.task.done())
            if tasks:
                self._cancel(tasks)
            elif self.connections and aborts < ABORT_TURNS:
                aborts += 1
                for connection in list(self.connections):
                    connection.abort()
                self._turn()
            elif self.calls:  # their tasks are done, and will tell them so
                self._turn()
            else:
                return

    def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        told = {call.task for call in self.calls}  # whose outcome somebody gets
        for task in tasks:
            task.cancel(f"IOThread {self.name!r} was stopped")
        self._wait_for(tasks)
        for task in tasks - told:
            exc = None if task.cancelled() else task.exception()
            if exc is not None:
                self._report("unhandled exception while stopping", exc, task=task)

    def _wait_for(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            if not task.done():
                task.add_done_callback(lambda _: self.loop.stop())
                self._run_until(task.done)

    def _shut_down_executor(self) -> None:
        if self._exiting:
            # The interpreter has joined the executor's threads already, and allows none to be started for that.
            executor = getattr(self.loop, "_default_executor", None)
            if executor is not None:
                executor.shutdown(wait=False)
        else:
            self._wait_for([self.loop.create_task(self.loop.shutdown_default_executor())])


@atexit.register
def _stop_all() -> None:
    """What still runs when the interpreter exits, but for the thread that calls this: it would wait for itself."""
    asked = []
    for worker in list(_workers):
        if not worker.running or not worker.is_ours or worker.thread is threading.current_thread():
            continue
        worker._exiting = True
        with contextlib.suppress(RuntimeError):  # somebody closed its loop; the others are to end all the same
            worker.request_stop()
            asked.append(worker)
    deadline = time.monotonic() + EXIT_PATIENCE
    for worker in asked:
        worker.thread.join(max(0.0, deadline - time.monotonic()))
