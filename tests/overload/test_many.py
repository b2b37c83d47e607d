"""100,000 timers, 50,000 tasks, and more connections at once than the backlog takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import weakref

import pytest


def test_a_hundred_thousand_timers(any_loop, run, times):
    """Half of them cancelled; the others run once each, in order, none before its time."""
    count = 100_000 * times
    numbers = list(range(count))
    random.Random(7).shuffle(numbers)
    ran = []

    async def main():
        over = any_loop.create_future()
        start = any_loop.time()

        def callback(number, due):
            if any_loop.time() < due - 1e-6:  # asyncio's loop takes its clock's resolution for due
                ran.append(-number)
            ran.append(number)

        handles = {number: any_loop.call_at(due := start + number * 2e-6, callback, number, due) for number in numbers}
        last = any_loop.call_at(start + count * 2e-6, over.set_result, None)
        cancelled = [number for number in range(count) if number % 2 and number not in ran]
        for number in cancelled:
            handles[number].cancel()
        await over
        assert not last.cancelled()
        return set(cancelled)

    cancelled = run(main())
    assert len(cancelled) > count / 4
    expected = [number for number in range(count) if number not in cancelled]
    assert sorted(ran) == expected
    # Those that were due before they were made run when they are made, and so in that order.
    late = sum(1 for before, after in itertools.pairwise(ran) if before > after)
    assert late < count / 20


def test_timers_far_away_cost_the_others_nothing(any_loop, run, times):
    """100,000 that wait for an hour, and are dropped when they are cancelled."""

    class Argument:
        pass

    async def main():
        arguments = [Argument() for _ in range(100_000 * times)]
        watched = [weakref.ref(argument) for argument in arguments[::1000]]
        handles = [any_loop.call_later(3600 + i * 1e-3, id, argument) for i, argument in enumerate(arguments)]
        del arguments
        for _ in range(200):
            await asyncio.sleep(1e-5)
        for handle in handles:
            handle.cancel()
        del handles, handle
        await asyncio.sleep(1e-5)
        assert not any(reference() for reference in watched)

    run(main())


def test_fifty_thousand_tasks(any_loop, run, times):
    """Each waits for something of its own; half are cancelled before it comes."""
    count = 50_000 * times
    ended = []

    async def wait(number, future):
        await asyncio.sleep(0)
        await future
        ended.append(number)

    async def main():
        others = asyncio.all_tasks()
        futures = [any_loop.create_future() for _ in range(count)]
        tasks = [any_loop.create_task(wait(number, future)) for number, future in enumerate(futures)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[1::2]:
            task.cancel()
        for future in futures[::2]:
            future.set_result(None)
        await asyncio.wait(tasks)
        assert ended == list(range(0, count, 2))
        assert all(task.cancelled() for task in tasks[1::2])
        assert asyncio.all_tasks() == others

    run(main())


class Answering(asyncio.Protocol):
    """Sends the first bytes back and closes."""

    open = 0

    def connection_made(self, transport):
        Answering.open += 1
        self.transport = transport

    def connection_lost(self, exc):
        Answering.open -= 1

    def data_received(self, data):
        self.transport.write(data)
        self.transport.close()


@pytest.mark.parametrize("backlog", [100, 4096])
def test_a_thundering_herd(any_loop, run, times, many_fds, backlog):
    """All connect at once, and again where the kernel has dropped them because the backlog was full. Each is served in
    the end, by its own answer."""
    count = min(5000, 700 * times)
    served = []
    Answering.open = 0

    async def ask(number, address):
        with socket.socket() as sock:
            sock.setblocking(False)
            await any_loop.sock_connect(sock, address)
            question = b"%d" % number
            await any_loop.sock_sendall(sock, question)
            answer = b""
            while data := await any_loop.sock_recv(sock, 100):
                answer += data
            assert answer == question
            served.append(number)

    async def insist(number, address):
        patience = 0.3 + number % 50 / 100  # seconds
        while True:
            with contextlib.suppress(asyncio.TimeoutError, ConnectionResetError):
                await asyncio.wait_for(ask(number, address), patience if backlog < count else None)
                return
            patience *= 2

    async def main():
        server = await any_loop.create_server(Answering, "127.0.0.1", 0, backlog=backlog)
        address = server.sockets[0].getsockname()
        await asyncio.gather(*(insist(number, address) for number in range(count)))
        server.close()
        await asyncio.sleep(0)
        while Answering.open:  # whose client had given up
            await asyncio.sleep(0.001)

    run(main())
    assert sorted(served) == list(range(count))
