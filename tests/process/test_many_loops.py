"""Loops in 64 threads at once, and loops that are made in one thread and run and closed in others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback

import aioqemu_loop

from .work import all_of_it, by_a_process, counting

THREADS = 64


def at_once(function, count=THREADS):
    """function(number) in so many threads at once; raises what they raised."""
    failures = []
    gate = threading.Barrier(count)

    def work(number):
        try:
            gate.wait(30)
            function(number)
        except BaseException:
            failures.append(traceback.format_exc())
            gate.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive(), "a thread hangs"
    assert not failures, failures[0]


def test_sixty_four_threads_each_with_a_loop(fdmon, no_leaks):
    """All loops are there before the first is closed: rings, epoll sets and buffers of all at once."""
    data = counting(60_000)
    all_run, all_ran = threading.Barrier(THREADS), threading.Barrier(THREADS)

    def work(number):
        with contextlib.closing(aioqemu_loop.new_event_loop(fdmon=fdmon)) as loop:
            loop.run_until_complete(asyncio.sleep(0))
            all_run.wait(30)
            assert loop.fdmon == fdmon
            more = [by_a_process()] if number % 8 == 0 else []
            assert loop.run_until_complete(all_of_it(data, *more)) == "all"
            loop.run_until_complete(loop.shutdown_default_executor())
            all_ran.wait(45)

    at_once(work)


def test_each_calls_into_the_next(fdmon, no_leaks):
    """A token goes around all of the loops, ten times."""
    loops = [aioqemu_loop.new_event_loop(fdmon=fdmon) for _ in range(THREADS)]
    seen = [0] * THREADS
    ended = threading.Event()

    def hand_on(number, rounds):
        seen[number] += 1
        following = (number + 1) % THREADS
        if following:
            loops[following].call_soon_threadsafe(hand_on, following, rounds)
        elif rounds > 1:
            loops[0].call_soon_threadsafe(hand_on, 0, rounds - 1)
        else:
            ended.set()

    def work(number):
        if number == 0:
            loops[0].call_soon(hand_on, 0, 10)
        loops[number].run_until_complete(asyncio.wait_for(loops[number].run_in_executor(None, ended.wait, 30), 40))
        loops[number].run_until_complete(loops[number].shutdown_default_executor())
        loops[number].close()

    at_once(work)
    assert seen == [10] * THREADS


def test_made_here_run_there_closed_elsewhere(loop_factory, no_leaks):
    """The same connection and file in each thread; the last one closes the loop."""
    loop = loop_factory()
    data = counting(100_000)
    parts = []
    streams = {}

    async def begin():
        async def serve(reader, writer):
            writer.write(data)
            writer.close()

        streams["server"] = await asyncio.start_server(serve, "127.0.0.1", 0)
        streams["client"] = await asyncio.open_connection(*streams["server"].sockets[0].getsockname())

    async def go_on():
        parts.append(await streams["client"][0].readexactly(len(data) // 5))
        assert await all_of_it(data[:1000]) == "all"

    async def end():
        streams["client"][1].close()
        await streams["client"][1].wait_closed()
        streams["server"].close()
        await streams["server"].wait_closed()
        await loop.shutdown_default_executor()

    def in_turn(coroutine):
        at_once(lambda _: loop.run_until_complete(coroutine), 1)

    in_turn(begin())
    for number in range(5):
        if number % 2:
            loop.run_until_complete(go_on())
        else:
            in_turn(go_on())
    loop.run_until_complete(end())
    at_once(lambda _: loop.close(), 1)
    assert b"".join(parts) == data
