"""Processes and threads: forks, several loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

from tools.compatibility.peers import connected, in_thread, raised, read_exactly
from tools.compatibility.registry import topic

probe = topic("Forks and threads")


async def talk():
    """Some of everything: a timer, a connection, another thread."""
    transport, protocol, peer = await connected()
    transport.write(b"ping")
    assert await in_thread(read_exactly, peer, 4) == b"ping"
    peer.send(b"pong")
    assert await protocol.got(4) == b"pong"
    await asyncio.sleep(0.001)
    transport.close()
    await protocol.lost


def fork(function):
    """Run it in a child; its exit status within 5 seconds."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            function()
            os._exit(0)
        os._exit(1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hang"


def new_loop(make_loop):
    with contextlib.closing(make_loop()) as loop:
        loop.run_until_complete(talk())


@probe("a forked child makes a new loop; the parent's goes on")
def child(make_loop):
    with contextlib.closing(make_loop()) as loop:
        loop.run_until_complete(talk())
        status = fork(lambda: new_loop(make_loop))
        assert status == 0, f"the child: {status}"
        loop.run_until_complete(talk())


@probe("the same, forked while the loop runs: no loop runs in the child")
def child_of_running(make_loop):
    async def inside():
        def check():
            raised(RuntimeError, asyncio.get_running_loop)
            new_loop(make_loop)

        return fork(check)

    with contextlib.closing(make_loop()) as loop:
        status = loop.run_until_complete(inside())
        assert status == 0, f"the child: {status}"
        loop.run_until_complete(talk())


@probe("os._exit and the garbage collector in the child do not disturb the parent's connections")
def child_ends(make_loop):
    async def inside():
        transport, protocol, peer = await connected()
        assert fork(lambda: None) == 0
        peer.send(b"x")
        assert await protocol.got(1) == b"x"
        transport.write(b"y")
        assert await in_thread(read_exactly, peer, 1) == b"y"
        transport.close()

    with contextlib.closing(make_loop()) as loop:
        loop.run_until_complete(inside())


@probe("loops in several threads at once")
def threads(make_loop):
    done = []

    def work():
        for _ in range(3):
            new_loop(make_loop)
        done.append(True)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(6)
    assert len(done) == 4, f"{len(done)} of 4 threads came through"


@probe("a loop made in one thread runs in another")
def other_thread(make_loop):
    loop, done = make_loop(), []
    worker = threading.Thread(target=lambda: done.append(loop.run_until_complete(talk())))
    worker.start()
    worker.join(6)
    assert done == [None]
    loop.close()
