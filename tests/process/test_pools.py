"""multiprocessing and ProcessPoolExecutor from a loop that runs, by each way of starting children."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import warnings
from multiprocessing import forkserver, resource_tracker

import pytest

import aioqemu_loop

from .work import all_of_it, by_a_process, told

METHODS = ("fork", "spawn", "forkserver")
parent_loop = None


@pytest.fixture(scope="module", autouse=True)
def helpers_of_multiprocessing():
    """Processes that stay, and pipes to them: they are no leak of the test that needs them first."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()


@pytest.fixture(autouse=True)
def forking_with_threads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: that is the point
        yield


def child(fdmon, queue=None):
    """All of it, in a child; what its parent's loop says there, if it has one."""
    parent = parent_loop and told(parent_loop.run_forever)
    answer = aioqemu_loop.run(all_of_it(None, by_a_process()), fdmon=fdmon), os.getpid(), parent
    if queue is not None:
        queue.put(answer)
    return answer


def check(answer, method):
    did, pid, parent = answer
    assert did == "all" and pid != os.getpid()
    assert (parent is not None) == (method == "fork")
    assert parent is None or parent.startswith("RuntimeError")


@pytest.fixture
def known_loop(loop, monkeypatch):
    """A child that is forked knows it."""
    monkeypatch.setitem(globals(), "parent_loop", loop)
    return loop


@pytest.mark.parametrize("method", METHODS)
def test_a_process_pool(known_loop, fdmon, method):
    async def main():
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            calls = [known_loop.run_in_executor(pool, child, fdmon) for _ in range(2)]
            answers = await asyncio.gather(*calls, all_of_it())
        assert answers.pop() == "all"
        for answer in answers:
            check(answer, method)

    known_loop.run_until_complete(main())


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_multiprocessing(known_loop, fdmon, method):
    """Its end is awaited by its sentinel, its answer comes by a pipe that the loop reads."""

    async def main():
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(fdmon, queue))
        process.start()
        ended, came = known_loop.create_future(), known_loop.create_future()
        known_loop.add_reader(process.sentinel, lambda: ended.done() or ended.set_result(None))
        known_loop.add_reader(queue._reader, lambda: came.done() or came.set_result(queue.get()))
        check(await came, method)
        await asyncio.gather(ended, all_of_it())
        known_loop.remove_reader(process.sentinel)
        known_loop.remove_reader(queue._reader)
        process.join()
        assert process.exitcode == 0
        process.close()
        queue.close()

    known_loop.run_until_complete(main())
