"""Child processes: asyncio's subprocess transport over subprocess.Popen, real pipes, and pidfds that tell of the end.

A pidfd becomes readable when its process ends: no SIGCHLD handler, no thread and no polling. Where the kernel or a
sandbox refuses pidfds, or no fd is left, a thread waits for that process instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from asyncio import base_subprocess, events
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import SubprocessProtocol

    from aioqemu_loop.loop.loop import Loop

    Exited = Callable[[int], None]

# What asyncio reports where somebody else has taken the exit status.
UNKNOWN_EXIT_CODE = 255


class SubprocessTransport(base_subprocess.BaseSubprocessTransport):
    """asyncio.SubprocessTransport. Every keyword of Popen goes through."""

    _exit_waiters: Any  # None after the end
    _loop: Any  # None after the end
    _pid: int
    _proc: subprocess.Popen[bytes]
    _returncode: int | None

    def _start(self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any) -> None:
        self._proc = subprocess.Popen(
            args, bufsize, stdin=stdin, stdout=stdout, stderr=stderr, shell=shell, universal_newlines=False, **kwargs
        )

    # Popen's own methods look whether the child has ended, and so take the exit status before we are told (asyncio's
    # do so up to 3.12).

    def send_signal(self, signal: int) -> None:
        self._check_proc()
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _process_exited(self, returncode: int) -> None:
        """Whoever waits for the child is told now, as by asyncio since gh-119710. Before, and from 3.11 on, it was when
        the pipes had ended, too, which the child's own children may keep open for ever."""
        super()._process_exited(returncode)
        self._loop.call_soon(self._wake_waiters)

    def _wake_waiters(self) -> None:
        waiters = list(self._exit_waiters or ())
        if waiters:
            self._exit_waiters.clear()  # a list or a set, and some releases have woken them already
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(self._returncode)

    def close(self) -> None:
        if self._loop is not None and self._loop.is_closed():
            self._pipes = {}  # nobody can be told of their end; they are closed when they are collected
        super().close()


class Children:
    """The child processes that one loop waits for."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._pidfds: set[int] = set()

    def watch(self, process: subprocess.Popen[bytes], exited: Exited) -> None:
        """Call exited(returncode) in the loop's thread when the child has ended, and reap it."""
        pid = process.pid
        pidfd = -1
        try:
            pidfd = os.pidfd_open(pid)
            self._pidfds.add(pidfd)
            self._loop._add_reader(pidfd, self._ended, pidfd, process, exited)
        except OSError:
            if pidfd >= 0:
                self._forget(pidfd)
            name = f"aioqemu-waitpid-{pid}"
            threading.Thread(target=self._wait, args=(process, exited), name=name, daemon=True).start()

    def _ended(self, pidfd: int, process: subprocess.Popen[bytes], exited: Exited) -> None:
        self._loop.remove_reader(pidfd)
        self._forget(pidfd)
        exited(reap(process))

    def _forget(self, pidfd: int) -> None:
        self._pidfds.discard(pidfd)
        os.close(pidfd)

    def _wait(self, process: subprocess.Popen[bytes], exited: Exited) -> None:
        """In a thread. Reaping is left to the loop's, so that nobody there sends a signal to a pid of the past."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        try:
            self._loop.call_soon_threadsafe(lambda: exited(reap(process)))
        except RuntimeError:
            reap(process)
            logger.warning("Loop %r that handles pid %r is closed", self._loop, process.pid)

    def close(self) -> None:
        """The loop closes: nobody will hear of those that still run."""
        for pidfd in list(self._pidfds):
            self._loop.remove_reader(pidfd)
            self._forget(pidfd)


def reap(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child and return its exit code (negative: a signal's number)."""
    pid = process.pid
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        if process.returncode is not None:  # by Popen.poll(), which transport.close() calls
            return process.returncode
        logger.warning("child process pid %d exit status already read:  will report returncode 255", pid)
        return UNKNOWN_EXIT_CODE
    return os.waitstatus_to_exitcode(status)


def chosen_watcher() -> Any:
    """The child watcher that the program has set, or None. Up to Python 3.13 there are such watchers; asyncio's own
    default ones do no more than we do, but some that can be chosen reap every child, ours too."""
    get = getattr(events, "get_child_watcher", None)
    if get is None:
        return None
    policy = events.get_event_loop_policy()
    if type(policy).get_child_watcher.__module__.startswith("asyncio."):
        watcher = getattr(policy, "_watcher", None)  # get_child_watcher() would make one
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            watcher = get()
    kind = type(watcher)
    if kind.__module__ == "asyncio.unix_events" and kind.__name__ in ("ThreadedChildWatcher", "PidfdChildWatcher"):
        return None
    return watcher


async def make_subprocess_transport(
    loop: Loop,
    protocol: SubprocessProtocol,
    args: Any,
    shell: bool,
    stdin: Any,
    stdout: Any,
    stderr: Any,
    bufsize: int,
    extra: dict[str, Any] | None,
    kwargs: dict[str, Any],
) -> SubprocessTransport:
    """Start a child and return its transport when its pipes are connected."""
    watcher = chosen_watcher()
    # A watcher may reap what it does not know yet: not in here.
    with watcher or contextlib.nullcontext() as entered:
        if sys.version_info < (3, 12):  # from then on asyncio asks the watcher itself
            watcher = entered
        if watcher is not None and not watcher.is_active():
            # The text of asyncio.
            raise RuntimeError("asyncio.get_child_watcher() is not activated, subprocess support is not installed.")
        waiter = loop.create_future()
        transport: Any = SubprocessTransport(
            loop, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter, extra, **kwargs
        )
        if watcher is None:
            loop._children.watch(transport._proc, transport._process_exited)
        else:
            watcher.add_child_handler(
                transport.get_pid(),
                lambda _, returncode: loop.call_soon_threadsafe(transport._process_exited, returncode),
            )
    try:
        await waiter
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:
        transport.close()
        await transport._wait()
        raise
    return transport  # type: ignore[no-any-return]
