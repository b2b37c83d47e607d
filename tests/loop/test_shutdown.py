"""Asynchronous generators and the default executor at the end of a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import weakref

import pytest


class TestAsyncgens:
    def test_one_that_fails_while_it_is_closed_is_told_and_the_others_are_closed(self, any_loop, errors):
        closed = []

        async def numbers(name, kind=None):
            try:
                yield 1
            finally:
                closed.append(name)
                if kind is not None:
                    raise kind("in finally")

        async def main():
            generators = [numbers("a"), numbers("b", LookupError), numbers("c")]
            for generator in generators:
                await generator.__anext__()
            return generators

        generators = any_loop.run_until_complete(main())
        any_loop.run_until_complete(any_loop.shutdown_asyncgens())
        assert sorted(closed) == ["a", "b", "c"]
        (error,) = errors
        assert error["message"] == (f"an error occurred during closing of asynchronous generator {generators[1]!r}")
        assert isinstance(error["exception"], LookupError) and error["asyncgen"] is generators[1]
        errors.clear()

    def test_iterating_after_the_shutdown_warns(self, any_loop):
        async def numbers():
            yield 1

        any_loop.run_until_complete(any_loop.shutdown_asyncgens())
        generator = numbers()

        async def main():
            await generator.__anext__()
            await generator.aclose()

        text = r"asynchronous generator .* was scheduled after loop\.shutdown_asyncgens\(\) call"
        with pytest.warns(ResourceWarning, match=text) as caught:
            any_loop.run_until_complete(main())
        assert caught[0].source is any_loop

    def test_one_dropped_while_no_loop_runs_is_closed_in_the_next_run(self, any_loop):
        closed = []

        async def numbers():
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.append(True)

        async def main():
            generator = numbers()
            await generator.__anext__()
            return generator

        generator = any_loop.run_until_complete(main())
        del generator
        gc.collect()
        assert closed == []
        for _ in range(3):
            any_loop.run_until_complete(asyncio.sleep(0))
        assert closed == [True]

    def test_shut_down_twice_and_without_any(self, any_loop):
        for _ in range(2):
            any_loop.run_until_complete(any_loop.shutdown_asyncgens())

    def test_finished_ones_are_not_kept(self, any_loop):
        async def numbers():
            yield 1

        async def main():
            generator = numbers()
            async for _ in generator:
                pass
            return weakref.ref(generator)

        reference = any_loop.run_until_complete(main())
        gc.collect()
        assert reference() is None


class TestExecutor:
    def test_shutdown_waits_for_what_runs(self, any_loop):
        release, ended = threading.Event(), []

        def work():
            release.wait(20)
            ended.append(True)

        async def main():
            working = any_loop.run_in_executor(None, work)
            any_loop.call_later(0.05, release.set)
            await any_loop.shutdown_default_executor()
            assert ended == [True]
            await working

        any_loop.run_until_complete(main())

    @pytest.mark.skipif(sys.version_info < (3, 13), reason="timeout came with 3.12 and worked from 3.13 on")
    def test_a_timeout_warns_and_goes_on(self, any_loop):
        release = threading.Event()

        async def main():
            working = any_loop.run_in_executor(None, release.wait, 20)
            text = r"The executor did not finish[ing]* joining its threads within 0\.05 seconds\."
            with pytest.warns(RuntimeWarning, match=text):
                await any_loop.shutdown_default_executor(timeout=0.05)
            release.set()
            await working

        any_loop.run_until_complete(main())

    def test_an_executor_of_the_programs_own(self, any_loop):
        executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="own")
        any_loop.set_default_executor(executor)

        async def main():
            return await any_loop.run_in_executor(None, lambda: threading.current_thread().name)

        assert any_loop.run_until_complete(main()).startswith("own")
        any_loop.run_until_complete(any_loop.shutdown_default_executor())
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(int)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 only warns")
    def test_what_is_no_thread_pool_is_refused(self, any_loop):
        with pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"):
            any_loop.set_default_executor(object())

    def test_a_cancelled_future_of_a_thread_stops_nothing(self, any_loop):
        release = threading.Event()

        async def main():
            working = any_loop.run_in_executor(None, release.wait, 20)
            await asyncio.sleep(0.01)
            working.cancel()
            release.set()
            with pytest.raises(asyncio.CancelledError):
                await working
            return await any_loop.run_in_executor(None, int, "7")

        assert any_loop.run_until_complete(main()) == 7

    def test_a_result_that_comes_after_the_loop_was_closed_is_dropped(self, any_factory, no_leaks):
        loop = any_factory()
        release = threading.Event()
        executor = concurrent.futures.ThreadPoolExecutor(1)
        future = loop.run_in_executor(executor, release.wait, 20)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        release.set()
        executor.shutdown()
        assert not future.done()

    def test_debug_mode_refuses_what_cannot_be_called(self, any_loop):
        any_loop.set_debug(True)

        async def coroutine():
            pass

        with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor\(\)"):
            any_loop.run_in_executor(None, coroutine)
        with pytest.raises(TypeError, match=r"a callable object was expected by run_in_executor\(\), got 42"):
            any_loop.run_in_executor(None, 42)
