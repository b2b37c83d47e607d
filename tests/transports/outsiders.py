"""Who else has a hand in the random programs of test_stream_machine.py: forked children, and other threads."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import warnings
from collections.abc import Callable

import aioqemu_loop
from tests.conftest import PATIENCE

from ..process.work import REFUSAL, counting, through_a_connection, told


def use_in_child(loop, transports, fdmon, verb):
    """In a forked child: tries the parent's loop, works with one of its own, does `verb` to all that it has inherited,
    closes it, and works again."""
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of threads that are not here
    running = loop.is_running()
    assert told(lambda: loop.call_soon_threadsafe(print)) == REFUSAL
    assert told(loop.run_forever) == ("RuntimeError: This event loop is already running" if running else REFUSAL)
    data = counting(4000)
    aioqemu_loop.run(through_a_connection(data), fdmon=fdmon)
    for transport in transports:
        if verb == "write":
            assert told(lambda t=transport: t.write(b"by the child")) == REFUSAL
        else:
            getattr(transport, verb)()
        transport.get_write_buffer_size()
        transport.abort()
    if not running:
        loop.close()
    aioqemu_loop.run(through_a_connection(data), fdmon=fdmon)
    return "all"


class Accomplice:
    """A thread that asks a loop to do things, as other threads may: in order, some of them waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.asked = 0
        self.ran: list[int] = []  # the numbers of what was asked for, in the loop's order
        self.wrong: list[BaseException] = []
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as exc:  # the machine asserts that there is none
                self.wrong.append(exc)

    # -- for the loop's thread --

    def give(self, job: Callable[..., object], *args: object) -> None:
        self._jobs.put(lambda: job(*args))

    def wait(self) -> None:
        """Run the loop until all that was given is done."""
        idle = self.loop.create_future()
        self.give(self.loop.call_soon_threadsafe, idle.set_result, None)
        self.loop.run_until_complete(asyncio.wait_for(idle, PATIENCE))

    def end(self) -> None:
        """Nothing that was given may wait for the loop any more."""
        self._jobs.put(None)
        self._thread.join(PATIENCE)

    # -- jobs --

    def ask(self, action: Callable[[], object], waits: bool) -> None:
        """Have the loop do it, by either of the two calls that are for other threads."""
        number = self.asked
        self.asked += 1

        def do() -> None:
            self.ran.append(number)
            action()

        async def do_and_tell() -> int:
            await asyncio.sleep(0)
            do()
            return number

        if waits:
            result = asyncio.run_coroutine_threadsafe(do_and_tell(), self.loop).result(PATIENCE)
            assert result == number
        else:
            self.loop.call_soon_threadsafe(do)

    def cancel_a_receive(self, size: int, waits: bool) -> None:
        """The bytes are there or not when it is cancelled: they are returned, or still in the socket."""
        left, right = socket.socketpair()
        got = bytearray()
        began, ended = threading.Event(), threading.Event()

        async def receive() -> None:
            began.set()
            try:
                got.extend(await self.loop.sock_recv(left, 2000))
            finally:
                ended.set()

        with left, right:
            left.setblocking(False)
            future = asyncio.run_coroutine_threadsafe(receive(), self.loop)
            if waits:
                assert began.wait(PATIENCE)
            right.send(b"x" * size)
            future.cancel()
            # What the loop is asked for later is done later: if it has not begun by then, it never will.
            self.ask(lambda: None, waits=True)
            assert not began.is_set() or ended.wait(PATIENCE)
            right.shutdown(socket.SHUT_WR)  # a child may have it open, too
            left.setblocking(True)
            while data := left.recv(4000):
                got += data
            assert got == b"x" * size, f"{len(got)} bytes of {size}"
