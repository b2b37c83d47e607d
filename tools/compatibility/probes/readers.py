"""add_reader, add_writer and their removal."""

from __future__ import annotations

import asyncio
import os
import pty
import socket

from tools.compatibility.peers import connected, raised
from tools.compatibility.registry import topic

probe = topic("Readers and writers")


def nonblocking_pair():
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    return pair


async def once(add, remove, fd, *args):
    """Wait until the callback of add(fd, ...) has run, with its arguments; then remove it."""
    done = asyncio.get_running_loop().create_future()
    add(fd, lambda *got: done.done() or done.set_result(got), *args)
    got = await asyncio.wait_for(done, 5)
    remove(fd)
    return got


@probe("add_reader with an fd, with arguments")
async def reader_fd():
    loop = asyncio.get_running_loop()
    ours, peer = nonblocking_pair()
    peer.send(b"x")
    assert await once(loop.add_reader, loop.remove_reader, ours.fileno(), 1, "two") == (1, "two")


@probe("add_reader and add_writer with file objects")
async def file_objects():
    loop = asyncio.get_running_loop()
    ours, peer = nonblocking_pair()
    peer.send(b"x")
    await once(loop.add_reader, loop.remove_reader, ours)
    await once(loop.add_writer, loop.remove_writer, ours)


@probe("add_reader calls again and again while data is left")
async def level_triggered():
    loop = asyncio.get_running_loop()
    ours, peer = nonblocking_pair()
    peer.send(b"abc")
    got, done = [], loop.create_future()

    def read():
        got.append(ours.recv(1))
        if len(got) == 3:
            done.set_result(None)

    loop.add_reader(ours.fileno(), read)
    await asyncio.wait_for(done, 5)
    loop.remove_reader(ours.fileno())
    assert got == [b"a", b"b", b"c"]


@probe("add_reader tells the end of the stream")
async def end_of_stream():
    loop = asyncio.get_running_loop()
    ours, peer = nonblocking_pair()
    peer.close()
    await once(loop.add_reader, loop.remove_reader, ours.fileno())
    assert ours.recv(1) == b""


@probe("a second add_reader replaces the first")
async def replaced():
    loop, calls = asyncio.get_running_loop(), []
    ours, peer = nonblocking_pair()
    loop.add_reader(ours.fileno(), calls.append, "first")
    peer.send(b"x")
    await once(loop.add_reader, loop.remove_reader, ours.fileno())
    assert calls == []


@probe("remove_reader and remove_writer tell whether there was one")
async def removal():
    loop = asyncio.get_running_loop()
    ours, _peer = nonblocking_pair()
    loop.add_reader(ours.fileno(), int)
    loop.add_writer(ours.fileno(), int)
    for remove in (loop.remove_reader, loop.remove_writer):
        assert (first := remove(ours.fileno())) is True, f"{first!r} for one that was there"
        assert (second := remove(ours.fileno())) is False, f"{second!r} for one that was not there"


@probe("a reader removed in the same batch does not run")
async def removed_in_batch():
    loop, calls = asyncio.get_running_loop(), []
    pairs = [nonblocking_pair() for _ in range(2)]

    def ready(own, other):
        calls.append(own)
        loop.remove_reader(pairs[other][0].fileno())
        pairs[own][0].recv(1)

    for number in range(2):
        pairs[number][1].send(b"x")
        loop.add_reader(pairs[number][0].fileno(), ready, number, 1 - number)
    await asyncio.sleep(0.02)
    assert len(calls) == 1, "both ran"
    loop.remove_reader(pairs[calls[0]][0].fileno())


@probe("a reader and a writer on one fd")
async def both():
    loop, calls, done = asyncio.get_running_loop(), [], asyncio.get_running_loop().create_future()
    ours, peer = nonblocking_pair()

    def writable():
        calls.append("writer")
        loop.remove_writer(ours.fileno())
        peer.send(b"x")

    def readable():
        calls.append("reader")
        loop.remove_reader(ours.fileno())
        done.set_result(None)

    loop.add_reader(ours.fileno(), readable)
    loop.add_writer(ours.fileno(), writable)
    await asyncio.wait_for(done, 5)
    assert calls == ["writer", "reader"]


@probe("pipes, terminals and eventfds can be watched")
async def kinds():
    loop = asyncio.get_running_loop()
    readable, writable = os.pipe()
    main, terminal = pty.openpty()
    os.write(writable, b"x")
    os.write(terminal, b"x\n")
    for fd in (readable, main):
        await once(loop.add_reader, loop.remove_reader, fd)
    for fd in (writable, terminal):
        await once(loop.add_writer, loop.remove_writer, fd)
    if hasattr(os, "eventfd"):
        event = os.eventfd(1)
        await once(loop.add_reader, loop.remove_reader, event)


@probe("an fd number can be watched again after another file got it")
async def number_reused():
    loop = asyncio.get_running_loop()
    for _ in range(3):
        ours, peer = nonblocking_pair()
        peer.send(b"x")
        await once(loop.add_reader, loop.remove_reader, ours.fileno())
        ours.close()
        peer.close()


@probe("an fd that belongs to a transport is refused with RuntimeError", promised=False)
async def transports_fd():
    loop = asyncio.get_running_loop()
    transport, _, _peer = await connected()
    fd = transport.get_extra_info("socket").fileno()
    raised(RuntimeError, loop.add_reader, fd, int)
    raised(RuntimeError, loop.add_writer, fd, int)
    raised(RuntimeError, loop.remove_reader, fd)
    transport.close()


@probe("a bad fd is refused with ValueError or OSError", promised=False)
async def bad_fd():
    loop = asyncio.get_running_loop()
    for fd in (-1, "text"):
        raised((ValueError, OSError, TypeError), loop.add_reader, fd, int)
    ours, _peer = nonblocking_pair()
    fd = ours.detach()
    os.close(fd)
    raised((ValueError, OSError), loop.add_reader, fd, int)


@probe("an exception in a reader goes to the exception handler; the reader stays")
async def failing_reader():
    loop, told = asyncio.get_running_loop(), []
    old = loop.get_exception_handler()
    ours, peer = nonblocking_pair()
    done = loop.create_future()
    loop.set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def read():
        ours.recv(1)
        if told:
            done.set_result(None)
        else:
            raise LookupError

    loop.add_reader(ours.fileno(), read)
    peer.send(b"xy")
    await asyncio.wait_for(done, 5)
    assert [type(error) for error in told] == [LookupError]
    loop.remove_reader(ours.fileno())
    loop.set_exception_handler(old)


@probe("a closed loop refuses readers with RuntimeError, and forgets its own")
def closed(make_loop):
    ours, peer = nonblocking_pair()
    loop = make_loop()
    loop.add_reader(ours.fileno(), int)
    loop.close()
    raised(RuntimeError, loop.add_reader, ours.fileno(), int)
    raised(RuntimeError, loop.add_writer, ours.fileno(), int)
    peer.send(b"x")
    assert ours.recv(1) == b"x"
