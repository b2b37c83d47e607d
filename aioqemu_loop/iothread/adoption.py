"""Moving a connection from the running loop to an IOThread's. What it takes in a transport: transports/moving.pyx."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from aioqemu_loop.loop.elsewhere import Connection, check_streams_idle, rebind_streams
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.transports.moving import check_movable, flush_output, move_in, move_out, server_of, set_server

if TYPE_CHECKING:
    from aioqemu_loop.loop.elsewhere import ServingThread


async def adopt(iothread: ServingThread, transport: Any) -> None:
    loop = asyncio.get_running_loop()
    _check(iothread, transport, loop)
    # On: not inside a callback of the transport's own, and behind what it had queued when it was made.
    await asyncio.sleep(0)
    _check(iothread, transport, loop)
    if iothread.loop is loop:
        return
    flush_output(transport)  # may call the protocol, and may find out that the connection is lost
    _check(iothread, transport, loop)
    assert isinstance(loop, Loop)
    protocol = transport.get_protocol()
    server = server_of(transport)
    connection = server if isinstance(server, Connection) else Connection(server, loop)
    was_reading = move_out(transport, iothread.loop.context, iothread.loop)
    rebind_streams(protocol, iothread.loop)
    enter = functools.partial(_enter, connection, server, transport, iothread)
    try:
        iothread.hand_in(move_in, transport, was_reading, first=enter)
    except BaseException:  # RuntimeError: stopped just now
        move_out(transport, loop.context, loop)
        rebind_streams(protocol, loop)
        move_in(transport, was_reading)
        raise


def _enter(connection: Connection, server: Any, transport: Any, iothread: ServingThread) -> None:
    """Before the new thread knows of it: it may lose the connection at once."""
    connection.move_to(iothread)
    if connection is not server:
        connection.stand_in_for(transport)
        set_server(transport, connection)


def _check(iothread: ServingThread, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
    check_movable(transport, loop)
    check_streams_idle(transport.get_protocol())
    if not iothread.running:
        raise RuntimeError(f"{iothread!r} is not running")
