"""loop.submit() where signal handlers come in between: they raise (Ctrl-C) after any call, or cancel at
any instruction. Nothing is written into memory that was let go of, no file is lost or closed twice, nothing waits for
ever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket

import pytest

from aioqemu_loop.loop import submit
from aioqemu_loop.uring import package

from ..conftest import need_fdmon
from ..context.helpers import AtInstruction, Interrupted

FILES = (submit.__file__, package.__file__)
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(params=("liburing", "io_uring", "epoll", "poll"))
def fdmon(request):
    need_fdmon("liburing")
    need_fdmon(request.param)
    return request.param


@pytest.fixture
def api():
    """The package."""
    need_fdmon("liburing")
    import liburing

    return liburing


def interruptions():
    """One for each place, until the block has no more of them."""
    for number in itertools.count(1):
        yield (interrupted := Interrupted(number, FILES))
        if interrupted.beyond:
            assert number > 5
            return


def pinned(buffer):
    try:
        buffer.append(0)
    except BufferError:
        return True
    del buffer[-1]
    return False


def turn(loop):
    loop.run_until_complete(asyncio.sleep(0))


def result_of(loop, future):
    with contextlib.suppress(RuntimeError):
        turn(loop)  # that a run is over may have been queued when it was interrupted
    return loop.run_until_complete(asyncio.wait_for(future, 20))


def test_a_buffer_is_held_where_the_kernel_has_it(fdmon, loop, api):
    """It was let go of where the interrupt came after the entry was queued, and read into later."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for interrupted in interruptions():
        buffer = bytearray(4)
        with interrupted:
            loop.submit(api.io_uring_prep_read, reader, buffer)
        held = pinned(buffer)
        os.write(writer, b"data")
        result_of(loop, loop.submit(api.io_uring_prep_nop))
        assert (buffer if held and any(buffer) else os.read(reader, 10)) == b"data"
        assert not pinned(buffer)
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
    os.close(reader)
    os.close(writer)


def test_a_chain_is_held_where_the_kernel_has_it(fdmon, loop, api):
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for interrupted in interruptions():
        buffers = bytearray(2), bytearray(2)
        with interrupted:
            loop.submit_linked(*[(api.io_uring_prep_read, reader, buffer) for buffer in buffers])
        held = [pinned(buffer) for buffer in buffers]
        assert held[0] == held[1]
        os.write(writer, b"data")
        result_of(loop, loop.submit(api.io_uring_prep_nop))
        turn(loop)
        assert (b"".join(buffers) if any(held) and any(buffers[0]) else os.read(reader, 10)) == b"data"
        assert not pinned(buffers[0])
        assert not pinned(buffers[1])
    os.close(reader)
    os.close(writer)


def test_what_was_submitted_goes_on(fdmon, loop, api):
    """Where the turn that hands it over or takes its completion is interrupted."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for interrupted in interruptions():
        buffer = bytearray(4)
        os.write(writer, b"data")
        reading = loop.submit(api.io_uring_prep_read, reader, buffer)
        with interrupted:
            turn(loop)
            turn(loop)
        assert result_of(loop, reading) == 4
        assert buffer == b"data"
    os.close(reader)
    os.close(writer)


def test_files_that_were_accepted_are_closed_once(fdmon, loop, api):
    """What came to a multishot accept besides the first was closed again, and so was the first itself."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for interrupted in interruptions():
            clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
            accepting = loop.submit(api.io_uring_prep_multishot_accept, server.fileno())
            with interrupted:
                turn(loop)
                turn(loop)
            with socket.socket(fileno=result_of(loop, accepting)) as accepted:
                names = [client.getsockname() for client in clients]
                first = clients.pop(names.index(accepted.getpeername()))
                accepted.sendall(b"x")
                assert first.recv(1) == b"x"
            with first:
                pass
            for client in clients:
                with client:
                    client.settimeout(20)
                    with contextlib.suppress(ConnectionResetError):
                        # Accepted and closed, or still in the backlog.
                        server.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            server.accept()[0].close()
                        assert client.recv(1) == b""


def test_a_file_whose_opening_was_interrupted_is_closed(fdmon, loop, api, tmp_path, monkeypatch):
    """It stayed open where the entry was queued and the future not yet returned. `loop` looks for what is left open."""
    (tmp_path / "file").touch()
    submitted = submit.Operations.submitted
    interrupts = [KeyboardInterrupt]

    def interrupted(self, ring):
        if interrupts:
            raise interrupts.pop()
        submitted(self, ring)

    monkeypatch.setattr(submit.Operations, "submitted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.submit(api.io_uring_prep_open, tmp_path / "file", os.O_RDONLY)
    turn(loop)
    turn(loop)


def test_a_file_that_nobody_wants_any_more_is_closed_once(fdmon, loop, api, tmp_path):
    (tmp_path / "file").touch()
    for interrupted in interruptions():
        opening = loop.submit(api.io_uring_prep_open, tmp_path / "file", os.O_RDONLY)
        opening.cancel()
        with interrupted:
            turn(loop)
            turn(loop)
        with pytest.raises(asyncio.CancelledError):
            result_of(loop, opening)


def test_a_signal_handler_may_cancel_at_every_instruction(fdmon, loop, api):
    """As that of asyncio.run() for SIGINT. Nobody asked the kernel where the ring was in use just then."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    for number in itertools.count(1, 7):  # a part of them; all take a minute
        reading = loop.submit(api.io_uring_prep_read, reader, bytearray(4))
        at = AtInstruction(number, reading.cancel, FILES)
        with at:
            other = loop.submit(api.io_uring_prep_nop)
            turn(loop)
            turn(loop)
        assert result_of(loop, other) == 0
        if at.count < number:
            reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            result_of(loop, reading)
        if at.count < number:
            break
    assert number > 100
    os.close(reader)
    os.close(writer)
