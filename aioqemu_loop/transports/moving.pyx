"""Moving a stream transport from one loop to another, in the order check_movable(), flush_output(), move_out() in the
old loop's thread, outside the transport's own callbacks, and move_in() in the new one's.

The engine is not moved but replaced, so whatever the old loop still has queued for it finds nobody. The new one gets what the
old one had received and not handed over; readiness is a state, which the new monitor finds out by itself.
"""

from asyncio import sslproto

from aioqemu_loop.context.aio_context cimport AioContext
from aioqemu_loop.transports.completion cimport SocketEngine, new_socket_engine, take_over
from aioqemu_loop.transports.stream cimport StreamTransport


def check_movable(transport, loop):
    """Raise TypeError for what is no plain stream transport, RuntimeError where it cannot be moved from `loop` now."""
    cdef StreamTransport stream
    if not isinstance(transport, StreamTransport):
        raise TypeError(f"a TCP or Unix stream transport was expected, got {transport!r}")
    stream = <StreamTransport>transport
    if stream.layer is not None or isinstance(stream.protocol, sslproto.SSLProtocol):
        raise TypeError(f"a transport under TLS cannot be moved: {transport!r}")
    if stream.closing or stream._conn_lost or stream.fd < 0:
        raise RuntimeError(f"a transport that is closing cannot be moved: {transport!r}")
    if stream._loop is not loop:
        raise RuntimeError(f"{transport!r} belongs to another loop than the running one")
    if stream.empty_waiter is not None:
        raise RuntimeError(f"a transport that sends a file cannot be moved: {transport!r}")
    if stream.context.depth != 1:
        raise RuntimeError("a transport cannot be moved inside a nested poll()")


def flush_output(StreamTransport stream not None):
    """Send what is queued, as far as the socket takes it. As write(), this may call the protocol, and may end it."""
    stream.flush_now()


def move_out(StreamTransport stream not None, AioContext context not None, loop):
    """Take the transport off its loop. It is the other one's from now on. Returns whether it was reading, for move_in()."""
    cdef AioContext old_context = stream.context
    cdef SocketEngine old = <SocketEngine>stream.engine
    cdef SocketEngine engine = new_socket_engine(context, stream, stream.fd, stream.family, stream.proto)
    cdef bint was_reading = old.reading
    cdef bint was_added = old.added
    old.read_off()
    if was_added:
        old_context.remove_handler(old)
        old.added = False
        try:
            old_context.settle(old)  # what is armed may have more, and holds the file; a queued send is done
        except BaseException:
            old.watch()
            if was_reading:
                old.read_on()
            raise
    old_context.remove_flush(stream)
    take_over(engine, old)
    old_context.counters.ended += 1
    context.counters.opened += 1
    stream.engine = engine
    stream.context = context
    stream._loop = loop
    return was_reading


def move_in(StreamTransport stream not None, bint was_reading):
    """Go on in the new loop."""
    cdef SocketEngine engine = <SocketEngine>stream.engine
    if stream._conn_lost:
        return
    try:
        engine.watch()  # also where there is nothing to watch for now: it keeps the transport alive
        if stream.blocked:
            engine.write_on()
        elif stream.queue.size:
            stream.flush_now()
        if was_reading and stream.is_reading():
            engine.read_on()
    except OSError as exc:
        stream.fatal_error(exc, "Fatal error on socket transport")


def server_of(StreamTransport stream not None):
    """The server that counts the transport, or None."""
    return stream.server


def set_server(StreamTransport stream not None, server):
    """Another one is told of its end; counting it is the caller's affair."""
    stream.server = server
