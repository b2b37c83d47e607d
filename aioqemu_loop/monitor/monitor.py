"""Monitor: the server, in an IOThread of its own, as QEMU's monitor is."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import socket
from types import TracebackType
from typing import Any

import aioqemu_loop.monitor.commands  # noqa: F401 (makes them known)
from aioqemu_loop.iothread.iothread import IOThread
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes, trace
from aioqemu_loop.monitor.address import Address, ListeningSocket, listen, parse_address
from aioqemu_loop.monitor.budget import Budget
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.session import Session, encode
from aioqemu_loop.monitor.stalls import Stalls

# Below it the monitor itself would be what costs time.
MIN_STALL_SECONDS = 0.01
# Seconds until it tries again where no client can be accepted, for want of file descriptors for instance.
ACCEPT_AGAIN_IN = 1.0

_running: list[Monitor] = []


class Monitor:
    """A QMP server that tells about the loops of this process, from start() until stop() or the end of the with block.

    Everything it reads it reads in its own thread, so it answers while a loop is stuck. Thread-safe. In a child that
    was forked it is not running, and stop() does nothing.
    """

    def __init__(self, listening: ListeningSocket, stall_seconds: float, max_clients: int) -> None:
        """For start()."""
        self.stalls = Stalls(stall_seconds, self._tell_all)
        self._stall_seconds = stall_seconds
        self._listening = listening
        self._max_clients = max_clients
        self._sessions: dict[Session, socket.socket] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        # epoll is always there, and takes no locked memory from the program; nothing here is worth spinning for.
        self._thread = IOThread("aioqemu-monitor", fdmon="epoll", poll_max_ns=0)
        probes.hide(self._thread.loop)
        try:
            self._thread.submit(self._begin()).result()
        except BaseException:
            self._thread.stop()
            raise
        _running.append(self)
        probes.add_quiet_threads(1)
        probes.watch_new_loops(_loop_made)
        for loop in probes.loops():
            _loop_made(loop)

    def __repr__(self) -> str:
        return f"<Monitor {self.address!r} {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What clients connect to: the absolute path of the Unix socket, or "host:port"."""
        return self._listening.address

    @property
    def is_tcp(self) -> bool:
        return self._listening.sock.family != socket.AF_UNIX

    @property
    def running(self) -> bool:
        return self in _running

    def stop(self) -> None:
        """Close the connections, remove the socket's file, and end the thread. Once is enough. Raises RuntimeError
        in the monitor's own thread, which would wait for itself; nothing has changed then."""
        if self._pid != os.getpid():
            return
        if self.running:
            self._thread.check_stoppable()
        try:
            _running.remove(self)
        except ValueError:
            return
        probes.add_quiet_threads(-1)
        probes.unwatch_new_loops(_loop_made)
        self._listening.remove_file()
        self._thread.stop()
        self._listening.sock.close()
        if not _running:
            for loop in probes.loops():
                probes.note_task_births(loop, False)

    # -- in the monitor's thread --

    async def _begin(self) -> None:
        self.budget = Budget()
        self._listening.sock.setblocking(False)
        self._begin_accepting()
        self._watch_loops(asyncio.get_running_loop())

    def _begin_accepting(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening.sock, self._accept)

    def _accept(self) -> None:
        """One, and the next when the budget allows: a server would take all that come, whatever that costs."""
        loop = asyncio.get_running_loop()
        try:
            sock, _ = self._listening.sock.accept()
        except BlockingIOError:  # it has gone
            return
        except OSError:
            pause = ACCEPT_AGAIN_IN
        else:
            task = loop.create_task(self._serve(sock))
            self._tasks.add(task)  # asyncio itself holds it weakly
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: sock.close())  # for one that ends before there is a transport
            pause = self.budget.pause()
        if pause:
            loop.remove_reader(self._listening.sock)
            loop.call_later(pause, self._begin_accepting)

    def _watch_loops(self, own: asyncio.AbstractEventLoop) -> None:
        """A few times per threshold."""
        again_in = self._stall_seconds
        try:
            again_in = self.stalls.look(probes.loops())
        finally:
            own.call_later(again_in, self._watch_loops, own)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        if len(self._sessions) >= self._max_clients:
            writer.write(encode(QMPError(f"The monitor has {self._max_clients} clients already").as_answer()) + b"\r\n")
            writer.close()
            return
        session = Session(self, reader, writer)
        self._sessions[session] = sock
        try:
            await session.serve()
        except asyncio.CancelledError:  # by stop(); asyncio's streams would report it as an error
            writer.transport.abort()
        finally:
            del self._sessions[session]

    def _tell_all(self, event: str, data: dict[str, Any]) -> None:
        for session in list(self._sessions):
            session.send_event(event, data)

    # -- in a child that was forked --

    def disown(self) -> None:
        """Let go of the inherited sockets, so that this process keeps nobody waiting. Their numbers become /dev/null,
        because objects that were inherited, too, will close them."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for sock in [self._listening.sock, *self._sessions.values()]:
            fd = sock.fileno()
            if fd >= 0:
                os.dup2(null, fd, inheritable=False)
        os.close(null)


def start(address: Address, *, stall_seconds: float = 1.0, max_clients: int = 16) -> Monitor:
    """Start a monitor that listens on a Unix socket, which is made with mode 0600, or on a port of a loopback address.

    address: a path, or "host:port" (port 0: any). stall_seconds: for how long one callback must hold a loop for the
    event LOOP_STALLED, at least 0.01. max_clients: how many may be connected at once. A socket file of a process that
    is gone is replaced. Raises ValueError for other addresses and numbers, TypeError, OSError (EADDRINUSE where
    somebody listens there already, or the path is no socket).
    """
    if not (stall_seconds >= MIN_STALL_SECONDS and math.isfinite(stall_seconds)):
        raise ValueError(f"stall_seconds must be at least {MIN_STALL_SECONDS}, not {stall_seconds!r}")
    if max_clients < 1:
        raise ValueError(f"max_clients must be at least 1, not {max_clients!r}")
    listening = listen(parse_address(address))
    try:
        return Monitor(listening, stall_seconds, max_clients)
    except BaseException:
        listening.remove_file()
        listening.sock.close()
        raise


def _loop_made(loop: Loop) -> None:
    probes.note_task_births(loop, True)
    trace.hub.note_loop(loop)


def stop() -> None:
    """Stop all monitors of this process."""
    for monitor in list(_running):
        monitor.stop()


@atexit.register
def _remove_files() -> None:
    """Their threads end with all other IOThreads'."""
    for monitor in _running:
        monitor._listening.remove_file()


def _after_fork_in_child() -> None:
    inherited = list(_running)
    _running.clear()
    trace.hub.forget()
    for monitor in inherited:
        probes.add_quiet_threads(-1)
        probes.unwatch_new_loops(_loop_made)
        monitor.disown()


os.register_at_fork(after_in_child=_after_fork_in_child)
