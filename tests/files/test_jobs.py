"""Calls that go to the default executor: many share a few of its calls, and nobody has to wait for a stranger."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aioqemu_loop.files.engine import engine_of

THREADS = 3


class Counted(ThreadPoolExecutor):
    def __init__(self) -> None:
        super().__init__(THREADS)
        self.calls = 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().submit(function, *args, **kwargs)


@pytest.fixture
def executor(any_loop: Any) -> Counted:
    executor = Counted()
    any_loop.set_default_executor(executor)
    return executor


@pytest.fixture
def engine(any_loop: Any, executor: Counted) -> Any:
    return engine_of(any_loop)


def test_many_at_once_take_few_calls_of_the_executor(run: Any, engine: Any, executor: Counted) -> None:
    async def main() -> None:
        assert await asyncio.gather(*(engine.call(divmod, n, 7) for n in range(160))) == [
            divmod(n, 7) for n in range(160)
        ]
        assert executor.calls < 40  # 16 jobs each, and some that came too late
        assert await engine.call(sum, [1, 2]) == 3

    run(main())


def test_one_after_the_other_takes_few_calls_of_the_executor(run: Any, engine: Any, executor: Counted) -> None:
    async def main() -> None:
        for n in range(160):
            assert await engine.call(divmod, n, 7) == divmod(n, 7)
        assert executor.calls < 150  # 16 jobs each, where the machine has time for these threads
        await asyncio.sleep(0.01)  # nobody waits for a job any more
        assert await engine.call(sum, [1, 2]) == 3

    run(main())


def test_a_thread_that_waits_for_a_job_does_not_hold_up_a_stranger(run: Any, any_loop: Any, engine: Any) -> None:
    async def main() -> None:
        any_loop.set_default_executor(only := ThreadPoolExecutor(1))
        for _ in range(40):
            assert await engine.call(int) == 0
            assert await any_loop.run_in_executor(None, sum, [1, 2]) == 3
        await any_loop.shutdown_default_executor()
        assert only._shutdown

    run(main())


def test_one_that_blocks_does_not_hold_up_the_others(run: Any, engine: Any) -> None:
    go_on = threading.Event()

    async def main() -> None:
        blocked = [asyncio.ensure_future(engine.call(go_on.wait, 20)) for _ in range(THREADS - 1)]
        await asyncio.gather(*(engine.call(int) for _ in range(100)))
        assert not any(task.done() for task in blocked)
        go_on.set()
        assert await asyncio.gather(*blocked) == [True] * (THREADS - 1)

    run(main())


def test_others_have_their_share_of_the_executor(run: Any, any_loop: Any, engine: Any) -> None:
    async def main() -> None:
        stop = False

        async def endless() -> None:
            while not stop:
                await engine.call(int)

        tasks = [asyncio.ensure_future(endless()) for _ in range(50)]
        for _ in range(20):
            assert await any_loop.run_in_executor(None, sum, [1, 2]) == 3
        stop = True
        await asyncio.gather(*tasks)

    run(main())


def test_cancelling_before_and_after_it_has_begun(run: Any, engine: Any) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    done: list[str] = []

    def block() -> str:
        begun.release()
        go_on.wait(20)
        return "result"

    async def main() -> None:
        running = [asyncio.ensure_future(engine.call(block)) for _ in range(THREADS)]
        while begun._value < THREADS:
            await asyncio.sleep(0.001)
        queued = asyncio.ensure_future(engine.call(done.append, "never"))
        surely = asyncio.ensure_future(engine.call_surely(done.append, "surely"))
        await asyncio.sleep(0)
        for task in (*running, queued, surely):
            task.cancel()
        await asyncio.wait([queued], timeout=10)
        assert queued.cancelled()
        assert not any(task.done() for task in (*running, surely))  # these end when they are over
        go_on.set()
        await asyncio.wait([*running, surely])
        assert all(task.cancelled() for task in (*running, surely))
        assert done == ["surely"]
        assert await engine.call(int) == 0

    run(main())


def test_a_cancelled_call_tells_what_it_returned(run: Any, engine: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block() -> int:
        begun.set()
        go_on.wait(20)
        return 42

    async def call() -> Any:
        try:
            await engine.call(block)
        except asyncio.CancelledError as exc:
            return exc.result  # type: ignore[attr-defined]

    async def main() -> None:
        task = asyncio.ensure_future(call())
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await task == 42

    run(main())


def test_what_a_call_raises(run: Any, engine: Any) -> None:
    async def main() -> None:
        calls = (engine.call(int, "x"), engine.call(next, iter(())), engine.call(int, "7"))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], ValueError) and isinstance(results[1], RuntimeError) and results[2] == 7
        with pytest.raises(SystemExit):
            await engine.call(exit_now)

    run(main())


def exit_now() -> None:
    raise SystemExit(3)


def test_an_executor_that_was_shut_down(run: Any, engine: Any, executor: Counted) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def block() -> None:
        begun.release()
        go_on.wait(20)

    async def main() -> None:
        running = [asyncio.ensure_future(engine.call(block)) for _ in range(THREADS)]
        while begun._value < THREADS:
            await asyncio.sleep(0.001)
        queued = [asyncio.ensure_future(engine.call(int)) for _ in range(40)]
        await asyncio.sleep(0)
        executor.shutdown(wait=False, cancel_futures=True)
        go_on.set()
        await asyncio.gather(*running)
        results = await asyncio.gather(*queued, return_exceptions=True)
        assert all(result == 0 or isinstance(result, RuntimeError) for result in results)
        executor.shutdown(wait=True)  # the last call in it waits a moment for another job
        with pytest.raises(RuntimeError, match="shutdown"):
            await engine.call(int)

    run(main())


def test_a_loop_that_is_closed_before_a_call_is_over(loop_factory: Any, no_leaks: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go_on.wait(20)

    loop = loop_factory()
    executor = Counted()
    loop.set_default_executor(executor)
    engine = engine_of(loop)

    async def main() -> None:
        tasks.extend(asyncio.ensure_future(call) for call in (engine.call(block), engine.call(int)))
        while not begun.is_set():
            await asyncio.sleep(0.001)

    tasks: list[Any] = []
    loop.run_until_complete(main())
    for task in tasks:
        task._log_destroy_pending = False
    loop.close()
    go_on.set()
    executor.shutdown(wait=True)
    assert not tasks[0].done()
