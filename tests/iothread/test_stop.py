"""stop(): what is cancelled, waited for and told, and what happens to who comes late."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

import aioqemu_loop

PATIENCE = 15.0


async def answer():
    return 42


async def for_ever(begun=None):
    if begun is not None:
        begun.set()
    await asyncio.Event().wait()


def test_stop_is_idempotent_and_from_any_thread(iothread):
    threads = [threading.Thread(target=iothread.stop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    iothread.stop()
    assert not iothread.running


def test_it_cannot_stop_itself(iothread):
    async def stop():
        iothread.stop()

    with pytest.raises(RuntimeError, match="cannot stop itself"):
        iothread.submit(stop()).result(PATIENCE)
    assert iothread.running


def test_its_executor_cannot_stop_it(iothread):
    async def stop():
        await asyncio.to_thread(iothread.stop)

    with pytest.raises(RuntimeError, match="cannot stop itself"):
        iothread.submit(stop()).result(PATIENCE)
    assert iothread.running


@pytest.mark.parametrize("executor", [False, True])
def test_a_pool_that_cannot_stop_in_one_of_its_threads_goes_on(pool, executor):
    async def stop():
        if executor:
            await asyncio.to_thread(pool.stop)
        else:
            pool.stop()

    with pytest.raises(RuntimeError, match="'pool-1' cannot stop itself"):
        pool[1].submit(stop()).result(PATIENCE)
    assert all(thread.running for thread in pool)


def test_submit_and_run_after_stop_raise(iothread, run):
    iothread.stop()
    with pytest.raises(RuntimeError, match="'worker' is stopped"):
        iothread.submit(answer())

    async def main():
        with pytest.raises(RuntimeError, match="'worker' is stopped"):
            await iothread.run(answer())

    run(main())


def test_stop_cancels_what_runs(iothread):
    begun = threading.Event()
    future = iothread.submit(for_ever(begun))
    assert begun.wait(PATIENCE)
    iothread.stop()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_who_waits_in_another_loop_is_told(iothread, run):
    begun = threading.Event()

    async def main():
        task = asyncio.ensure_future(iothread.run(for_ever(begun)))
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
        await asyncio.get_running_loop().run_in_executor(None, iothread.stop)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)

    run(main())


def test_stop_cancels_a_factorys_tasks_that_asyncio_does_not_know(iothread):
    class Task(asyncio.tasks._PyTask):
        pass

    def factory(loop, coro, **options):
        task = Task(coro, loop=loop, **options)
        asyncio.tasks._unregister_task(task)
        return task

    begun = threading.Event()
    iothread.loop.call_soon_threadsafe(iothread.loop.set_task_factory, factory)
    future = iothread.submit(for_ever(begun))
    assert begun.wait(PATIENCE)
    iothread.loop.call_soon_threadsafe(iothread.loop.set_task_factory, None)
    iothread.stop()
    assert future.cancelled()


def test_stop_waits_for_tasks_that_take_their_time(iothread):
    begun = threading.Event()
    steps = []

    async def stubborn():
        begun.set()
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                steps.append("cancelled")
                break
        for i in range(20):
            await asyncio.sleep(0.001)
            steps.append(i)
        return "done after all"

    future = iothread.submit(stubborn())
    assert begun.wait(PATIENCE)
    iothread.stop()
    assert steps == ["cancelled", *range(20)]
    assert future.result(0) == "done after all"


def test_tasks_that_others_leave_behind_end_too(iothread):
    ended = []

    async def child():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("child")

    async def parent():
        iothread.kept = asyncio.ensure_future(child())
        try:
            await asyncio.Event().wait()
        finally:
            iothread.late = asyncio.ensure_future(child())
            await asyncio.sleep(0)
            ended.append("parent")

    future = iothread.submit(parent())
    iothread.submit(answer()).result(PATIENCE)
    iothread.stop()
    assert sorted(ended) == ["child", "child", "parent"]
    assert future.cancelled()


def test_exceptions_that_nobody_sees_are_told(iothread):
    begun = threading.Event()

    async def fails():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError("while stopping")

    async def start():
        iothread.kept = asyncio.ensure_future(fails())

    iothread.submit(start()).result(PATIENCE)
    assert begun.wait(PATIENCE)
    future = iothread.submit(fails())
    iothread.stop()
    assert isinstance(future.exception(0), ZeroDivisionError)
    (details,) = iothread.errors
    assert details["message"] == "IOThread 'worker': unhandled exception while stopping"
    assert isinstance(details["exception"], ZeroDivisionError)
    assert details["task"] is iothread.kept
    iothread.errors.clear()


def test_async_generators_and_the_executor_are_shut_down(iothread):
    ended = []
    kept = []

    async def numbers():
        try:
            yield 1
        finally:
            ended.append("generator")

    async def begin():
        generator = numbers()
        kept.append(generator)
        await generator.__anext__()
        return await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)

    executor_thread = iothread.submit(begin()).result(PATIENCE)
    iothread.stop()
    assert ended == ["generator"]
    assert not executor_thread.is_alive()


def test_an_exit_while_stopping_does_not_keep_it(iothread):
    begun = threading.Event()

    async def leave():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise SystemExit(3)

    future = iothread.submit(leave())
    assert begun.wait(PATIENCE)
    iothread.stop()
    assert isinstance(future.exception(0), SystemExit)
    iothread.errors.clear()


def test_submit_that_races_with_stop_runs_or_raises(fdmon, no_leaks):
    for _ in range(6):
        thread = aioqemu_loop.IOThread("racing", fdmon=fdmon)
        start = threading.Barrier(9)
        outcomes = []

        def submit(thread=thread, start=start, outcomes=outcomes):
            start.wait(PATIENCE)
            while True:
                try:
                    future = thread.submit(answer())
                except RuntimeError as exc:
                    assert "stopped" in str(exc)
                    return
                outcomes.append(future)

        submitters = [threading.Thread(target=submit) for _ in range(8)]
        for submitter in submitters:
            submitter.start()
        start.wait(PATIENCE)
        thread.submit(answer()).result(PATIENCE)
        thread.stop()
        for submitter in submitters:
            submitter.join(PATIENCE)
            assert not submitter.is_alive()
        for future in outcomes:
            assert future.done()
            assert future.cancelled() or future.result(0) == 42


def test_run_that_races_with_stop_ends(fdmon, no_leaks):
    for turns in range(20):
        thread = aioqemu_loop.IOThread("racing", fdmon=fdmon)

        async def main(thread=thread, turns=turns):
            async def one():
                try:
                    return await thread.run(answer())
                except (RuntimeError, asyncio.CancelledError):
                    return None

            waiting = [asyncio.ensure_future(one()) for _ in range(50)]
            for _ in range(turns % 3):
                await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, thread.stop)
            assert set(await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)) <= {42, None}

        aioqemu_loop.run(main(), fdmon=fdmon)


def test_two_that_run_in_each_other_can_both_be_stopped(fdmon, no_leaks):
    with aioqemu_loop.IOThreadPool(2, fdmon=fdmon) as pool:
        begun = threading.Event()

        async def bounce():
            await pool[1].run(for_ever(begun))

        future = pool[0].submit(bounce())
        assert begun.wait(PATIENCE)
    assert future.cancelled()
