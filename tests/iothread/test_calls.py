"""submit() and run(): results, exceptions, cancellation and context variables across threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import traceback

import pytest

PATIENCE = 15.0
variable = contextvars.ContextVar("variable", default="unset")


async def fails():
    raise ZeroDivisionError("in the thread")


async def answer():
    await asyncio.sleep(0)
    return 42


class Sleeper:
    """A coroutine that waits for ever, and tells when it has begun and how it ended."""

    def __init__(self, swallow=False, raises=None):
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.swallow = swallow
        self.raises = raises
        self.reason = None

    async def __call__(self):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            self.reason = exc.args
            for _ in range(3):  # its end takes some turns
                await asyncio.sleep(0)
            if self.raises is not None:
                raise self.raises from None
            if not self.swallow:
                raise
            return "swallowed"
        finally:
            self.ended.set()


async def begun(sleeper):
    assert await asyncio.get_running_loop().run_in_executor(None, sleeper.begun.wait, PATIENCE)


# -- submit --


def test_submit_gives_the_result(iothread):
    assert iothread.submit(answer()).result(PATIENCE) == 42


def test_submit_gives_the_exception_with_its_traceback(iothread):
    exc = iothread.submit(fails()).exception(PATIENCE)
    assert isinstance(exc, ZeroDivisionError)
    assert traceback.extract_tb(exc.__traceback__)[-1].name == "fails"


@pytest.mark.parametrize("thing", [answer, None, 3])
def test_submit_wants_a_coroutine(iothread, run, thing):
    with pytest.raises(TypeError, match="a coroutine was expected"):
        iothread.submit(thing)

    async def main():
        with pytest.raises(TypeError, match="a coroutine was expected"):
            await iothread.run(thing)

    run(main())


def test_cancelling_the_future_cancels_the_task(iothread):
    sleeper = Sleeper()
    future = iothread.submit(sleeper())
    assert sleeper.begun.wait(PATIENCE)
    assert future.cancel()
    assert sleeper.ended.wait(PATIENCE)
    done, _ = concurrent.futures.wait([future], PATIENCE)
    assert done == {future}
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE)


def test_cancelling_at_once_is_in_time(iothread):
    for _ in range(200):
        future = iothread.submit(Sleeper()())
        assert future.cancel()
        concurrent.futures.wait([future], PATIENCE)
        assert future.cancelled()


def test_what_a_cancelled_future_cannot_tell_goes_to_the_exception_handler(iothread):
    sleeper = Sleeper(raises=ZeroDivisionError("too late"))
    future = iothread.submit(sleeper())
    assert sleeper.begun.wait(PATIENCE)
    future.cancel()
    concurrent.futures.wait([future], PATIENCE)
    assert iothread.submit(answer()).result(PATIENCE) == 42
    (details,) = iothread.errors
    assert isinstance(details["exception"], ZeroDivisionError)
    iothread.errors.clear()


def test_a_cancelled_task_cancels_the_future(iothread):
    async def cancelled():
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    with pytest.raises(concurrent.futures.CancelledError):
        iothread.submit(cancelled()).result(PATIENCE)


def test_an_exit_in_a_coroutine_reaches_its_caller(iothread):
    async def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        iothread.submit(leave()).result(PATIENCE)
    assert iothread.submit(answer()).result(PATIENCE) == 42
    iothread.errors.clear()


def test_submit_carries_context_variables(iothread):
    async def look():
        seen = variable.get()
        variable.set("changed")
        return seen

    variable.set("of the caller")
    assert iothread.submit(look()).result(PATIENCE) == "of the caller"
    assert variable.get() == "of the caller"


def test_a_task_that_nobody_holds_is_kept(iothread):
    import gc

    reached = threading.Event()

    async def wait(future):
        future.set_result(None)
        await iothread.loop.create_future()

    async def begin():
        future = iothread.loop.create_future()
        other = iothread.submit(wait(future))
        other.add_done_callback(lambda _: reached.set())
        del other
        await future
        gc.collect()

    iothread.submit(begin()).result(PATIENCE)
    iothread.stop()
    assert reached.is_set()


# -- run --


def test_run_gives_the_result_and_runs_there(iothread, run):
    async def where():
        return threading.get_native_id()

    async def main():
        assert await iothread.run(answer()) == 42
        assert await iothread.run(where()) == iothread.thread_id
        assert await asyncio.gather(*(iothread.run(answer()) for _ in range(50))) == [42] * 50

    run(main())


def test_run_works_from_another_loop(iothread):
    async def main():
        return await iothread.run(answer())

    loop = asyncio.SelectorEventLoop()
    try:
        assert loop.run_until_complete(main()) == 42
    finally:
        loop.close()


def test_run_gives_the_exception_with_its_traceback(iothread, run):
    async def main():
        with pytest.raises(ZeroDivisionError) as caught:
            await iothread.run(fails())
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"

    run(main())


def test_run_in_its_own_loop_is_a_task(iothread):
    async def outer():
        task = asyncio.current_task()

        async def inner():
            assert asyncio.current_task() is not task
            return await answer()

        return await iothread.run(inner())

    assert iothread.submit(outer()).result(PATIENCE) == 42


def test_run_between_two_of_them_both_ways(new_iothread):
    one, other = new_iothread("one"), new_iothread("other")

    async def back_and_forth(depth):
        if depth == 0:
            return 0
        target = one if asyncio.get_running_loop() is other.loop else other
        return 1 + await target.run(back_and_forth(depth - 1))

    assert one.submit(back_and_forth(20)).result(PATIENCE) == 20


def test_run_carries_context_variables(iothread, run):
    async def look():
        seen = variable.get()
        variable.set("changed")
        return seen

    async def main():
        variable.set("of the task")
        assert await iothread.run(look()) == "of the task"
        assert variable.get() == "of the task"

    run(main())


def test_cancelling_who_waits_cancels_the_task_and_waits_for_its_end(iothread, run):
    sleeper = Sleeper()

    async def main():
        task = asyncio.ensure_future(iothread.run(sleeper()))
        await begun(sleeper)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sleeper.ended.is_set()
        assert task.cancelled()

    run(main())


def test_the_message_of_a_cancellation_goes_along(iothread, run):
    sleeper = Sleeper()

    async def main():
        task = asyncio.ensure_future(iothread.run(sleeper()))
        await begun(sleeper)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert sleeper.reason == ("enough",)


@pytest.mark.parametrize("direct", [True, False], ids=["task here", "iothread"])
def test_a_task_that_swallows_its_cancellation_gives_its_result(iothread, run, direct):
    sleeper = Sleeper(swallow=True)

    async def main():
        async def caller():
            return await (asyncio.ensure_future(sleeper()) if direct else iothread.run(sleeper()))

        task = asyncio.ensure_future(caller())
        await begun(sleeper)
        task.cancel()
        assert await task == "swallowed"
        assert not task.cancelled()

    run(main())


@pytest.mark.parametrize("direct", [True, False], ids=["task here", "iothread"])
def test_a_task_that_fails_when_cancelled_gives_its_exception(iothread, run, direct):
    sleeper = Sleeper(raises=KeyError("cleanup"))

    async def main():
        async def caller():
            return await (asyncio.ensure_future(sleeper()) if direct else iothread.run(sleeper()))

        task = asyncio.ensure_future(caller())
        await begun(sleeper)
        task.cancel()
        with pytest.raises(KeyError, match="cleanup"):
            await task

    run(main())


@pytest.mark.parametrize("direct", [True, False], ids=["task here", "iothread"])
def test_a_cancellation_that_comes_after_the_end_is_not_lost(iothread, run, direct):
    async def result():
        return "too late"

    async def main():
        async def caller():
            return await (asyncio.ensure_future(result()) if direct else iothread.run(result()))

        task = asyncio.ensure_future(caller())
        await asyncio.sleep(0)
        if direct:
            await asyncio.sleep(0)  # it ends in this turn
        else:
            iothread.submit(answer()).result(PATIENCE)  # it is done there, but this loop does not know yet
        assert task.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(main())


def test_a_second_cancellation_that_comes_after_the_end_is_not_lost(iothread, run):
    sleeper = Sleeper(swallow=True)

    async def main():
        task = asyncio.ensure_future(iothread.run(sleeper()))
        await begun(sleeper)
        assert task.cancel()
        assert sleeper.ended.wait(PATIENCE)
        iothread.submit(answer()).result(PATIENCE)
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_an_exception_that_a_cancellation_overtakes_is_told(iothread, run):
    told = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, details: told.append(details))
        task = asyncio.ensure_future(iothread.run(fails()))
        await asyncio.sleep(0)
        iothread.submit(answer()).result(PATIENCE)
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    (details,) = told
    assert isinstance(details["exception"], ZeroDivisionError)


def test_one_that_runs_short_calls_for_ever_can_be_cancelled(iothread, run):
    async def nothing():
        pass

    async def for_ever(ran):
        while True:
            await iothread.run(nothing())
            ran.set()

    async def main():
        for _ in range(100):
            ran = asyncio.Event()
            task = asyncio.ensure_future(for_ever(ran))
            await ran.wait()
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=PATIENCE)
            assert done
            assert task.cancelled()

    run(main())


def test_wait_for_ends_it(iothread, run):
    sleeper = Sleeper()

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(iothread.run(sleeper()), 0.01)
        assert sleeper.ended.is_set() or not sleeper.begun.is_set()

    run(main())


def test_cancelling_at_once_ends_run(iothread, run):
    async def main():
        for turns in range(50):
            task = asyncio.ensure_future(iothread.run(Sleeper()()))
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            if turns % 4 == 0:
                await asyncio.sleep(0)  # a task that never began never awaits its coroutine
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_a_caller_whose_loop_is_closed_leaves_the_thread_alone(iothread):
    release = threading.Event()
    sleeper = Sleeper()

    async def main():
        asyncio.ensure_future(iothread.run(sleeper()))
        await begun(sleeper)

    loop = asyncio.SelectorEventLoop()
    loop.set_exception_handler(lambda *_: None)  # it complains about the task that it leaves pending
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    release.set()
    iothread.stop()
    assert sleeper.ended.is_set()


def test_an_exception_for_a_closed_loop_is_told(iothread):
    release = threading.Event()

    async def wait_and_fail():
        await asyncio.get_running_loop().run_in_executor(None, release.wait, PATIENCE)
        raise ZeroDivisionError("nobody listens")

    async def main():
        asyncio.ensure_future(iothread.run(wait_and_fail()))
        await asyncio.sleep(0)

    loop = asyncio.SelectorEventLoop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    loop.close()
    told = threading.Event()
    iothread.loop.set_exception_handler(lambda _, details: (iothread.errors.append(details), told.set()))
    release.set()
    assert told.wait(PATIENCE)
    (details,) = iothread.errors
    assert isinstance(details["exception"], ZeroDivisionError)
    iothread.errors.clear()


def test_a_task_factory_that_fails_is_the_callers(iothread):
    def factory(loop, coro, **options):
        raise ZeroDivisionError("no task today")

    iothread.loop.set_task_factory(factory)
    with pytest.raises(ZeroDivisionError):
        iothread.submit(answer()).result(PATIENCE)
    iothread.loop.set_task_factory(None)
    assert iothread.submit(answer()).result(PATIENCE) == 42
