"""Loop: the asyncio event loop. Lifecycle, sockets and servers here; what runs per callback is in LoopCore."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl as ssl_module
import sys
import threading
from asyncio import base_events, constants, events, futures, streams, tasks
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import IO, TYPE_CHECKING, Any

from aioqemu_loop.context import inspection
from aioqemu_loop.loop import elsewhere, registry, sendfile, subprocesses, unix
from aioqemu_loop.loop.core import LoopCore, with_own_methods
from aioqemu_loop.loop.metrics import Metrics
from aioqemu_loop.loop.numeric_names import numeric_addresses
from aioqemu_loop.loop.signals import Signals
from aioqemu_loop.loop.sock_methods import SockMethods
from aioqemu_loop.loop.submit import Call, Operations, Outcome
from aioqemu_loop.loop.uring_methods import RingOperations
from aioqemu_loop.transports.datagram import DatagramTransport
from aioqemu_loop.transports.listener import Listener
from aioqemu_loop.transports.pipe import ReadPipeTransport, WritePipeTransport
from aioqemu_loop.transports.stream import make_stream_transport
from aioqemu_loop.transports.tls import TLSTransport

if TYPE_CHECKING:
    from asyncio import BaseProtocol, Server, SubprocessProtocol

    from aioqemu_loop.fdmon.base import FDMon

    class _BaseEventLoop(base_events.BaseEventLoop):
        """What typeshed leaves out."""

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _check_thread(self) -> None: ...
        def _check_sendfile_params(self, sock: Any, file: IO[bytes], offset: int, count: int | None) -> None: ...
        def _set_coroutine_origin_tracking(self, enabled: bool) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: Any) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: Any) -> None: ...
        async def _ensure_resolved(self, address: Any, **kwargs: Any) -> list[Any]: ...
        async def _create_connection_transport(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...

else:
    _BaseEventLoop = base_events.BaseEventLoop

SSL_SHUTDOWN_TIMEOUT = getattr(constants, "SSL_SHUTDOWN_TIMEOUT", None)  # 3.11


def _set_nodelay(sock: socket.socket) -> None:
    """Send small writes at once. Also where proto is 0, which asyncio leaves out: socket.create_server() gives that,
    and Nagle's algorithm with delayed ACKs costs 40 ms a request then."""
    if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@with_own_methods
class Loop(SockMethods, _BaseEventLoop):
    """An asyncio event loop with QEMU's AioContext inside.

    fdmon: "auto", "io_uring", "epoll", "poll", "liburing", or an FDMon; poll_max_ns: longest busy polling before it
    sleeps (ns), None for the default. Raises ValueError, TypeError or FDMonUnavailable.
    """

    def __init__(self, fdmon: str | FDMon | Callable[[], FDMon] = "auto", poll_max_ns: int | None = None) -> None:
        LoopCore.__init__(self, fdmon, poll_max_ns)
        base_events.BaseEventLoop.__init__(self)
        self._signals = Signals(self)
        self._children = subprocesses.Children(self)
        self._operations = Operations(self)
        self._listeners: dict[int, Listener] = {}
        self._unix_server_sockets: dict[socket.socket, int] = {}
        registry.note(self)

    if not TYPE_CHECKING:

        @property
        def _nest_patched(self):
            """nest_asyncio asks for this, and would then put its own turns, over the stdlib's queues and selector, into
            the class. For loops that do not derive from asyncio's it raises the same."""
            if sys._getframe(1).f_globals.get("__name__") == "nest_asyncio":
                raise ValueError(f"Can't patch loop of type {type(self)}")
            raise AttributeError("_nest_patched")

    # -- lifecycle --

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._check_closed()
        self._check_running()
        old_hooks = sys.get_asyncgen_hooks()
        try:
            self._set_coroutine_origin_tracking(self._debug)
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            events._set_running_loop(self)
            self._thread_id = threading.get_ident()
            self._signals.attach()
            self._run_turns()
        finally:
            # A signal's handler may raise at each call (a second Ctrl-C): none comes before the loop has stopped, and
            # none keeps the rest undone.
            self._stopping = False
            self._thread_id = None
            try:
                events._set_running_loop(None)
            finally:
                try:
                    self._set_coroutine_origin_tracking(False)
                finally:
                    try:
                        sys.set_asyncgen_hooks(*old_hooks)
                    finally:
                        self._signals.detach()

    def use_g_source(self, *, keep_io_uring: bool = False) -> None:
        """Make the loop fit for an outside main loop, as QEMU's aio_context_use_g_source(): io_uring is given up for
        good and every registration moves to poll.

        keep_io_uring=True: the monitor stays, as in QEMU 10.2. What the outside loop drives is
        loop.context.get_g_source(). Raises RuntimeError while the loop runs, and for keep_io_uring after io_uring was
        given up.
        """
        self._check_closed()
        if self.is_running():
            raise RuntimeError("use_g_source() cannot be called while the loop is running")
        self.context.use_g_source(keep_io_uring=keep_io_uring)

    def _g_source_held(self, held: bool) -> None:
        """An outside main loop begins to drive the context (or goes on in another thread), or ends."""
        if held:
            self._check_closed()
            # Without a wake-up fd for signals: whoever sleeps sees to those, and PyGObject puts back what it found
            # there, which may be closed by then.
            self._thread_id = threading.get_ident()
        else:
            self._stopping = False
            self._thread_id = None
            self._signals.detach()

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._signals.close()
        self._children.close()
        self._operations.close()
        base_events.BaseEventLoop.close(self)
        self.context.close()

    @functools.cached_property
    def uring(self) -> RingOperations:
        """What only io_uring can do: splice, tee, waitid, futex_wait, futex_wake, openat2, all awaitable."""
        return RingOperations(self)

    def metrics(self) -> Metrics:
        """The loop's counters at this moment."""
        return Metrics(**inspection.counters(self.context))

    def _write_to_self(self) -> None:
        self.context.notify()

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        # Debug mode tells of slow answers, and asyncio's own method does that.
        found: list[Any] | None
        found = None if self._debug else numeric_addresses(host, port, family, type, proto, flags)
        if found is None:
            found = await base_events.BaseEventLoop.getaddrinfo(
                self, host, port, family=family, type=type, proto=proto, flags=flags
            )
        return found

    # -- signals --

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        self._signals.add(sig, callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self._signals.remove(sig)

    # -- sendfile; sock_* is in SockMethods --

    async def _sendfile_native(self, transp: Any, file: IO[bytes], offset: int, count: int | None) -> int:
        self._check_sendfile_params(transp.get_extra_info("socket"), file, offset, count)
        sendfile.file_to_send(file)
        emptied = transp._make_empty_waiter()
        was_reading = transp.is_reading()
        transp.pause_reading()
        try:
            await emptied
            return await sendfile.send_file(transp._sendfile_fd, file, offset, count, transp._wait_writable)
        finally:
            transp._reset_empty_waiter()
            if was_reading:
                transp.resume_reading()

    # -- operations that python-liburing prepares --

    def submit(self, prep: Callable[..., object], *args: Any) -> futures.Future[int]:
        """Run what the package python-liburing can prepare: `await loop.submit(liburing.io_uring_prep_fsync, fd)`.

        prep(sqe, *args) is called at once; the operation starts with all others of this turn. The future's result is
        the kernel's (`cqe.res`), or the OSError it stands for. `args` live until then; what they only point to (the
        buffers of an Iovec) the caller keeps. Of a multishot operation the first result counts.

        Cancelling asks the kernel to end the operation; the future is cancelled when that is over, and a file that
        was opened after all is closed. Works on every fdmon: where that is not "liburing" the first call makes a ring
        of its own. Raises FDMonUnavailable where the package or io_uring cannot be had, what prep raises,
        RuntimeError in a forked child.
        """
        self._check_submit()
        return self._operations.submit((prep, *args))

    def submit_linked(self, *calls: Call, hard: bool = False) -> futures.Future[list[Outcome]]:
        """Run operations one after the other by one call: `submit_linked((prep, *args), (prep, *args), ...)`.

        The future's result is a list with what each came to: an int, or an OSError that is not raised. One that
        fails, or reads or writes less than asked for, ends the chain: those behind it come to OSError(ECANCELED).
        hard=True: they run all the same. Raises ValueError for none, or for more than the ring has room for (128); for
        all else see submit().
        """
        self._check_submit()
        return self._operations.submit_linked(calls, hard)

    def _check_submit(self) -> None:
        self._check_closed()
        if self._debug:
            self._check_thread()

    # -- transports --

    def _make_datagram_transport(
        self, sock: socket.socket, protocol: BaseProtocol, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        self._ensure_fd_no_transport(sock)
        return DatagramTransport(self.context, self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: BaseProtocol, waiter: Any = None, extra: Any = None
    ) -> Any:
        return ReadPipeTransport(self.context, self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: BaseProtocol, waiter: Any = None, extra: Any = None
    ) -> Any:
        return WritePipeTransport(self.context, self, pipe, protocol, waiter, extra)

    async def _make_subprocess_transport(
        self,
        protocol: SubprocessProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> subprocesses.SubprocessTransport:
        return await subprocesses.make_subprocess_transport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra, kwargs
        )

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: BaseProtocol,
        waiter: Any = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> Any:
        self._ensure_fd_no_transport(sock)
        extra = dict(extra or ())
        if "peername" not in extra:
            try:
                extra["peername"] = sock.getpeername()
            except OSError:
                extra["peername"] = None
        _set_nodelay(sock)
        return make_stream_transport(self.context, self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: BaseProtocol,
        sslcontext: ssl_module.SSLContext,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,
    ) -> Any:
        tls: Any = TLSTransport(
            self.context,
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        tls.attach(self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context))
        return tls

    async def start_tls(
        self,
        transport: Any,
        protocol: BaseProtocol,
        sslcontext: ssl_module.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Go on over TLS. Returns the transport that `protocol` uses from now on; the given one is below it."""
        if not isinstance(sslcontext, ssl_module.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = TLSTransport(
            self.context,
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            call_connection_made=False,
            writing_paused=transport.get_protocol() is protocol and getattr(transport, "_protocol_paused", False),
        )
        transport.pause_reading()  # nothing may come before connection_made()
        if server_side and isinstance(protocol, streams.StreamReaderProtocol):
            # The client did not wait for our answer: its first bytes of TLS came together with the plain text.
            reader = getattr(protocol, "_stream_reader", None)
            if reader is not None and reader._buffer:
                tls.data_received(bytes(reader._buffer))
                reader._buffer.clear()
        transport.set_protocol(tls)
        begin = self.call_soon(tls.connection_made, transport)
        resume = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            begin.cancel()
            resume.cancel()
            raise
        return tls

    # -- servers --

    async def create_server(
        self,
        protocol_factory: Callable[[], BaseProtocol],
        host: Any = None,
        port: Any = None,
        *,
        iothreads: Iterable[elsewhere.ServingThread] | None = None,
        start_serving: bool = True,
        **options: Any,
    ) -> Server:
        """As asyncio's. iothreads: an IOThreadPool, or IOThreads, in whose loops connections are made and served:
        protocol_factory is called there and its protocols must not keep another loop than the running one."""
        create = base_events.BaseEventLoop.create_server
        if iothreads is None:
            return await create(self, protocol_factory, host, port, start_serving=start_serving, **options)
        balancer = elsewhere.Balancer(iothreads)
        server: Server = await create(self, protocol_factory, host, port, start_serving=False, **options)
        return await self._serve_elsewhere(server, balancer, start_serving)

    async def _serve_elsewhere(self, server: Any, balancer: elsewhere.Balancer, start_serving: bool) -> Server:
        server._iothreads = balancer
        if start_serving:
            server._start_serving()
            await tasks.sleep(0)  # as asyncio does: it serves when this returns
        started: Server = server
        return started

    def _start_serving(
        self,
        protocol_factory: Callable[[], BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl_module.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,
    ) -> None:
        _set_nodelay(sock)  # inherited by accepted sockets
        timeouts = unix.tls_timeouts(ssl_handshake_timeout, ssl_shutdown_timeout)
        make_tls = hand_over = None
        balancer = getattr(server, "_iothreads", None)
        if balancer is not None:
            hand_over = elsewhere.HandOver(self, balancer, protocol_factory, sslcontext, timeouts, server)
        elif sslcontext:
            make_tls = functools.partial(self._accepted_tls, sslcontext, timeouts)
        if hasattr(server, "_clients"):  # 3.12.1 on: a WeakSet, which costs as much per connection as accepting it
            server._clients = set()  # an open transport is held by the context anyway
        self._listeners[sock.fileno()] = Listener(
            self.context, self, sock, protocol_factory, make_tls, server, backlog, context, hand_over
        )

    def _stop_serving(self, sock: socket.socket) -> None:
        inode = self._unix_server_sockets.pop(sock, None)
        path = sock.getsockname() if inode is not None else ""
        listener = self._listeners.pop(sock.fileno(), None)
        if listener is not None:
            listener.close()
        sock.close()
        if inode is not None:
            unix.remove_socket_file(path, inode)

    def _accepted_tls(
        self,
        sslcontext: ssl_module.SSLContext,
        timeouts: dict[str, Any],
        sock: socket.socket,
        protocol: BaseProtocol,
        peername: Any,
        server: Any,
        context: Context | None,
    ) -> Any:
        waiter = self.create_future()
        transport = self._make_ssl_transport(
            sock,
            protocol,
            sslcontext,
            waiter,
            server_side=True,
            extra={"peername": peername},
            server=server,
            context=context,
            **timeouts,
        )
        waiter.add_done_callback(functools.partial(self._handshake_done, transport, protocol))
        return transport

    def _handshake_done(self, transport: Any, protocol: BaseProtocol, waiter: Any) -> None:
        if waiter.cancelled():
            return
        exc = waiter.exception()
        if exc is None:
            return
        transport.close()
        if self._debug:
            self.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                    "protocol": protocol,
                    "transport": transport,
                }
            )

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], BaseProtocol],
        path: unix.Path | None = None,
        *,
        ssl: bool | ssl_module.SSLContext | None = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        return await unix.create_unix_connection(
            self,
            protocol_factory,
            path,
            ssl,
            sock,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], BaseProtocol],
        path: unix.Path | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: ssl_module.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = unix.CLEANUP_SOCKET,
        iothreads: Iterable[elsewhere.ServingThread] | None = None,
    ) -> Server:
        balancer = None if iothreads is None else elsewhere.Balancer(iothreads)
        server = await unix.create_unix_server(
            self,
            protocol_factory,
            path,
            sock,
            backlog,
            ssl,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            start_serving and balancer is None,
            cleanup_socket,
        )
        return server if balancer is None else await self._serve_elsewhere(server, balancer, start_serving)
