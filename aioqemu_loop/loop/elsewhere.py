"""Servers whose connections live in other loops' threads: create_server(..., iothreads=...).

The listener stays in the server's loop. What it accepts is handed to a thread's loop, where the protocol and the
transport are made. In the server's books (_attach, _detach, close_clients(), abort_clients()), which belong to the
server's thread, a Connection stands in for the transport; for the transport it is the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket
from asyncio import base_events, streams
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from aioqemu_loop.transports.stream import make_stream_transport

if TYPE_CHECKING:
    import ssl as ssl_module

    from aioqemu_loop.loop.loop import Loop

ATTACH_TAKES_TRANSPORT = "transport" in inspect.signature(base_events.Server._attach).parameters  # type: ignore[attr-defined]


class ServingThread(Protocol):
    """What is asked of an IOThread here."""

    @property
    def loop(self) -> Loop: ...
    @property
    def running(self) -> bool: ...
    @property
    def connections(self) -> set[Connection]: ...
    def hand_in(
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: Context | None = None,
        first: Callable[[], Any] | None = None,
    ) -> None:
        """Have the thread call `callback(*args)`, after a call of `first` here; RuntimeError where it is stopped."""


class Connection:
    """One connection that was handed to a thread, by a server or (server None) by somebody who had it."""

    def __init__(self, server: Any, server_loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._server_loop = server_loop
        self._ending: str | None = None
        self.transport: Any = None
        self.iothread: ServingThread | None = None

    def count_in(self, iothread: ServingThread) -> None:
        """In the server's thread."""
        self.move_to(iothread)
        if ATTACH_TAKES_TRANSPORT:
            self._server._attach(self)
        else:
            self._server._attach()

    def stand_in_for(self, transport: Any) -> None:
        """In the server's thread, where the transport was up to now."""
        self.transport = transport
        if self._server is not None and ATTACH_TAKES_TRANSPORT:
            self._server._clients.add(self)  # _attach() refuses where the server is closed by now
            self._server._detach(transport)

    def move_to(self, iothread: ServingThread | None) -> None:
        if self.iothread is not None:
            self.iothread.connections.discard(self)
        self.iothread = iothread
        if iothread is not None:
            iothread.connections.add(self)

    # -- from the server's thread, which may be another one than the transport's --

    def close(self) -> None:
        self._end("close")

    def abort(self) -> None:
        self._end("abort")

    def _end(self, method: str) -> None:
        self._ending = method  # before the look at the transport: begin() makes that and then looks here
        if self.transport is not None and self.iothread is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the transport with it
                self.iothread.loop.call_soon_threadsafe(self._end_here, method)

    # -- in the transport's thread --

    def _end_here(self, method: str) -> None:
        if self.iothread is not None and self.iothread.loop is not asyncio.get_running_loop():
            self._end(method)  # it has moved meanwhile
        elif self.transport is not None:
            getattr(self.transport, method)()

    def begun(self, transport: Any) -> None:
        self.transport = transport
        if self._ending is not None:
            self._end(self._ending)

    @property
    def unwanted(self) -> bool:
        """True where it was ended before there is a transport."""
        return self._ending is not None or self.iothread is None or not self.iothread.running

    def _attach(self, transport: Any = None) -> None:
        """The transport counts itself at its server; that is done already."""

    def _detach(self, transport: Any = None) -> None:
        """The transport is gone. TLS tells the application a little later, and only then is the connection over."""
        if self.iothread is None:
            return
        try:
            self.iothread.loop.call_soon_threadsafe(self.forget)
        except RuntimeError:  # the loop is closed
            self.forget()

    def forget(self) -> None:
        if self.iothread is None:
            return
        self.move_to(None)
        self.transport = None
        if self._server is not None:
            with contextlib.suppress(RuntimeError):  # the server's loop is closed
                self._server_loop.call_soon_threadsafe(self._count_out)

    def _count_out(self) -> None:
        if ATTACH_TAKES_TRANSPORT:
            self._server._detach(self)
        else:
            self._server._detach()


class Balancer:
    """Which thread gets a server's next connection: the one that has the fewest, in turn where several have as few.

    Raises ValueError where there are no threads, RuntimeError where one is stopped, TypeError for what is none.
    """

    def __init__(self, iothreads: Iterable[ServingThread]) -> None:
        self._threads = deque(iothreads)
        self.told = False
        if not self._threads:
            raise ValueError("iothreads is empty")
        for thread in self._threads:
            if not hasattr(thread, "hand_in"):
                raise TypeError(f"iothreads must be an IOThreadPool, or IOThreads, not {thread!r}")
            if not thread.running:
                raise RuntimeError(f"{thread!r} is stopped")

    def pick(self) -> ServingThread | None:
        """None where all are stopped."""
        running = [thread for thread in self._threads if thread.running]
        if not running:
            return None
        chosen = min(running, key=lambda thread: len(thread.connections))
        self._threads.remove(chosen)
        self._threads.append(chosen)
        return chosen

    def give_up(self, thread: ServingThread) -> None:
        """It takes no more, whatever its `running` says."""
        self._threads.remove(thread)


class HandOver:
    """What a listener does with accepted sockets instead of making transports itself. Called in the server's thread."""

    def __init__(
        self,
        loop: Loop,
        balancer: Balancer,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sslcontext: ssl_module.SSLContext | None,
        timeouts: dict[str, Any],
        server: Any,
    ) -> None:
        self._loop = loop
        self._balancer = balancer
        self._protocol_factory = protocol_factory
        self._sslcontext = sslcontext
        self._timeouts = timeouts
        self._server = server

    def __call__(self, sock: socket.socket, peername: Any, py_context: Context | None) -> None:
        connection = Connection(self._server, self._loop)
        # This thread is inside the one that it was given, and no other thread can be at the same time.
        own = None if py_context is None else py_context.copy()
        while (thread := self._balancer.pick()) is not None:
            enter = functools.partial(connection.count_in, thread)
            try:
                thread.hand_in(self._begin, connection, sock, peername, own, context=own, first=enter)
            except RuntimeError:  # stopped just now
                self._balancer.give_up(thread)
            else:
                return
        sock.close()
        self._tell_once()

    def _tell_once(self) -> None:
        if not self._balancer.told:
            self._balancer.told = True
            self._loop.call_exception_handler(
                {
                    "message": "All IOThreads of a server are stopped: what it accepts is closed",
                    "server": self._server,
                }
            )

    # -- in the thread --

    def _begin(self, connection: Connection, sock: socket.socket, peername: Any, py_context: Context | None) -> None:
        iothread = connection.iothread
        if iothread is None or connection.unwanted:
            sock.close()
            connection.forget()
            return
        loop = iothread.loop
        loop._claim_fd(sock.fileno())  # before any other code can write to a transport that had the number
        protocol = None
        transport = None
        try:
            protocol = self._protocol_factory()
            rebind_streams(protocol, loop)
            if self._sslcontext is not None:
                transport = loop._accepted_tls(
                    self._sslcontext, self._timeouts, sock, protocol, peername, connection, py_context
                )
            else:
                transport = make_stream_transport(
                    loop.context, loop, sock, protocol, None, {"peername": peername}, connection, py_context
                )
            connection.begun(transport)
        except BaseException as exc:
            if transport is None:
                sock.close()
                connection.forget()
            if not isinstance(exc, Exception):
                raise
            details = {"message": "Error on transport creation for incoming connection", "exception": exc}
            if protocol is not None:
                details["protocol"] = protocol
            loop.call_exception_handler(details)


# -- asyncio's streams keep the loop that made them --


def check_streams_idle(protocol: Any) -> None:
    """Raise RuntimeError where somebody waits in the protocol's StreamReader or StreamWriter."""
    if not isinstance(protocol, streams.StreamReaderProtocol):
        return
    known: Any = protocol
    reader = known._stream_reader
    if reader is not None and reader._waiter is not None:
        raise RuntimeError("somebody waits in the transport's StreamReader")
    if known._drain_waiters:
        raise RuntimeError("somebody waits in drain() of the transport's StreamWriter")
    if not known._closed.done() and known._closed._callbacks:
        raise RuntimeError("somebody waits in wait_closed() of the transport's StreamWriter")


def rebind_streams(protocol: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Let a StreamReaderProtocol, its reader and the writer that it knows belong to `loop`."""
    if not isinstance(protocol, streams.StreamReaderProtocol):
        return
    known: Any = protocol
    known._loop = loop
    if not known._closed.done():
        known._closed = loop.create_future()
    for stream in (known._stream_reader, getattr(known, "_stream_writer", None)):
        if stream is not None:
            stream._loop = loop
