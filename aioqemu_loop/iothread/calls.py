"""Coroutines that are called in one thread and run in another: submit() and run()."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioqemu_loop.iothread.worker import Worker


class Call:
    """A coroutine on its way to a worker's loop, then its task there. Nothing is started where begin() raises
    RuntimeError (a stopped IOThread); the coroutine is closed then. Raises TypeError for what is no coroutine."""

    def __init__(self, worker: Worker, coro: Coroutine[Any, Any, Any]) -> None:
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        self._worker = worker
        self._coro = coro
        self.task: asyncio.Task[Any] | None = None
        self.cancels_taken = 0  # how many the task heard of before it was done

    def begin(self) -> None:
        """In the caller's thread, whose context variables the coroutine sees."""
        try:
            # The worker knows of it from now on: the loop itself holds tasks weakly.
            enter = functools.partial(self._worker.calls.add, self)
            self._worker.hand_in(self._start, context=contextvars.copy_context(), first=enter)
        except RuntimeError:
            self._coro.close()
            raise

    def cancel(self, message: Any = None) -> None:
        """Cancel the task, soon. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: what there was to cancel is over
            self._worker.loop.call_soon_threadsafe(self._cancel_task, message)

    def abandon(self) -> None:
        """The worker ends without the task's end."""
        self._worker.calls.discard(self)
        if self.task is None:
            self._coro.close()
        self._cancelled(None)

    # -- in the worker's thread --

    def _start(self) -> None:
        try:
            self.task = self._worker.loop.create_task(self._coro)
        except BaseException as exc:  # a task factory's
            self._worker.calls.discard(self)
            self._coro.close()
            self._failed(exc)
            if not isinstance(exc, Exception):
                raise
            return
        self.task.add_done_callback(self._done)

    def _cancel_task(self, message: Any) -> None:
        if self.task is not None and self.task.cancel(message):
            self.cancels_taken += 1

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._worker.calls.discard(self)
        if task.cancelled():
            self._cancelled(getattr(task, "_cancel_message", None))
            return
        exc = task.exception()
        if exc is None:
            self._returned(task.result())
        else:
            self._failed(exc)

    def _nobody_sees(self, exc: BaseException, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Tell the exception handler of `loop`, the one whose thread this is; None: the worker's."""
        (loop or self._worker.loop).call_exception_handler(
            {
                "message": f"Exception in IOThread {self._worker.name!r} that nobody waits for any more",
                "exception": exc,
                "task": self.task,
            }
        )

    # -- what becomes of it --

    def _returned(self, result: Any) -> None:
        raise NotImplementedError

    def _failed(self, exc: BaseException) -> None:
        raise NotImplementedError

    def _cancelled(self, message: Any) -> None:
        raise NotImplementedError


class SubmittedCall(Call):
    """One whose outcome goes to a concurrent.futures.Future; cancelling that cancels the task."""

    def __init__(self, worker: Worker, coro: Coroutine[Any, Any, Any]) -> None:
        super().__init__(worker, coro)
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.future.add_done_callback(self._future_done)

    def _future_done(self, future: concurrent.futures.Future[Any]) -> None:
        if future.cancelled():
            self.cancel()

    def _returned(self, result: Any) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def _failed(self, exc: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(exc)
        else:
            self._nobody_sees(exc)

    def _cancelled(self, message: Any) -> None:
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class _OutcomeFuture(asyncio.Future[Any]):
    """In the caller's loop. As awaiting a task does, cancelling asks the task, and its end decides, unless it has come
    already."""

    call: Call
    cancels_asked = 0
    last_message: Any = None

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.cancels_asked += 1
        self.last_message = msg
        self.call.cancel(msg)
        return True

    def set_cancelled(self, message: Any) -> None:
        super().cancel(message)


class AwaitedCall(Call):
    """One whose outcome is awaited in another loop, the running one."""

    def __init__(self, worker: Worker, coro: Coroutine[Any, Any, Any]) -> None:
        super().__init__(worker, coro)
        self._caller = asyncio.get_running_loop()
        self.future = _OutcomeFuture(loop=self._caller)
        self.future.call = self

    def _tell(self, method: Any, argument: Any, exc: BaseException | None = None) -> bool:
        """Thread-safe. False where the caller's loop is closed."""
        try:
            self._caller.call_soon_threadsafe(self._told, method, argument, exc)
        except RuntimeError:
            return False
        return True

    def _told(self, method: Any, argument: Any, exc: BaseException | None) -> None:
        if self.future.done():
            return
        # The task is done, so no more of them are taken: those that are missing came while its outcome was on its way.
        if self.cancels_taken < self.future.cancels_asked:
            self.future.set_cancelled(self.future.last_message)
            if exc is not None:
                self._nobody_sees(exc, self._caller)
            return
        method(argument)

    def _returned(self, result: Any) -> None:
        self._tell(self.future.set_result, result)

    def _failed(self, exc: BaseException) -> None:
        if not self._tell(self.future.set_exception, exc, exc):
            self._nobody_sees(exc)

    def _cancelled(self, message: Any) -> None:
        self._tell(self.future.set_cancelled, message)
