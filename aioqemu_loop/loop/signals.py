"""Signals: the wake-up fd that Python writes signal numbers to, and add_signal_handler's handlers.

While a loop runs in the main thread the wake-up fd is always set (unless the program has set its own): a signal that
comes between the last look at pending signals and the system call that sleeps would else be noticed much later.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import signal
import sys
import threading
import warnings
import weakref
from asyncio import coroutines
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioqemu_loop.context.handle import Handle
    from aioqemu_loop.loop.loop import Loop


def _caught(owner: weakref.ref[Signals], signum: int, frame: object) -> None:
    """The handler that Python calls besides writing the wake-up fd."""
    signals = owner()
    if signals is not None:
        signals.caught(signum)


def check_signal(sig: int) -> None:
    """Raise TypeError or ValueError for what is no signal number."""
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


class Signals:
    """The signal handlers of one loop. Used by the main thread only, but for close()."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._handlers: dict[int, Handle] = {}
        self._read_fd = -1
        self._write_fd = -1
        self._attached = False

    def attach(self) -> None:
        """The loop starts to run: have its sleep end at signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        try:
            self._set_wakeup_fd()
        except (
            ValueError,
            OSError,
        ):  # not the main interpreter, or out of fds: signals still end a sleep by EINTR
            return

    def detach(self) -> None:
        """The loop stops. With handlers the wake-up fd stays: signals until the next run are not lost."""
        if self._attached and not self._handlers:
            self._unset_wakeup_fd()

    def _set_wakeup_fd(self, *, replace: bool = False) -> None:
        if self._write_fd < 0:
            self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._loop._add_reader(self._read_fd, self._read)
        attached, self._attached = self._attached, True  # first: a signal's handler may raise once Python writes there
        try:
            previous = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        except (ValueError, OSError):
            self._attached = attached
            raise
        if previous not in (-1, self._write_fd) and not replace:
            signal.set_wakeup_fd(previous)
            self._attached = False

    def _unset_wakeup_fd(self) -> None:
        try:
            current = signal.set_wakeup_fd(-1)
            if current not in (-1, self._write_fd):  # somebody else's by now
                signal.set_wakeup_fd(current)
            self._attached = False
        except (ValueError, OSError) as exc:
            logger.info("set_wakeup_fd(-1) failed: %s", exc)

    def _read(self) -> None:
        while True:
            try:
                numbers = os.read(self._read_fd, 4096)
            except BlockingIOError:
                return
            except InterruptedError:
                continue
            for number in numbers:
                self._came(number)

    def _came(self, sig: int) -> None:
        handle = self._handlers.get(sig)
        if handle is None:
            return
        if handle.cancelled():
            self.remove(sig)
        else:
            self._loop._add_callback(handle)

    def caught(self, sig: int) -> None:
        """Python calls the handler of `sig`. The wake-up fd has told of it already, unless somebody else's has taken
        the place of ours, as while GLib.MainLoop.run() of PyGObject runs."""
        if sig not in self._handlers:
            return
        current = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        if current != self._write_fd:
            signal.set_wakeup_fd(current)
            self._came(sig)
            self._loop._write_to_self()

    def add(self, sig: int, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """See asyncio's loop.add_signal_handler."""
        if coroutines.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        check_signal(sig)
        self._loop._check_closed()
        try:
            # Raises ValueError outside the main thread, before anything has changed.
            self._set_wakeup_fd(replace=True)
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from None
        self._handlers[sig] = self._loop._make_handle(callback, args)
        try:
            signal.signal(sig, functools.partial(_caught, weakref.ref(self)))
            signal.siginterrupt(sig, False)
        except OSError as exc:
            del self._handlers[sig]
            if not self._handlers and not self._loop.is_running():
                self._unset_wakeup_fd()
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise

    def remove(self, sig: int) -> bool:
        """See asyncio's loop.remove_signal_handler."""
        check_signal(sig)
        if self._handlers.pop(sig, None) is None:
            return False
        try:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from exc
            raise
        if not self._handlers and not self._loop.is_running():
            self._unset_wakeup_fd()
        return True

    def close(self) -> None:
        """The loop closes: give signals back their default handlers."""
        if self._handlers and sys.is_finalizing():
            warnings.warn(
                f"Closing the loop {self._loop!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                source=self._loop,
                stacklevel=2,
            )
            self._handlers.clear()
        for sig in list(self._handlers):
            self.remove(sig)
        if self._attached:
            self._unset_wakeup_fd()
        if self._write_fd >= 0:
            self._loop.remove_reader(self._read_fd)
            if (
                not self._attached
            ):  # else Python goes on to write there: it can be told otherwise in the main thread only
                os.close(self._read_fd)
                os.close(self._write_fd)
            self._read_fd = self._write_fd = -1
