"""call_soon, call_later, call_at, call_soon_threadsafe, and what they return."""

import asyncio
import contextlib
import contextvars
import math
import random
import sys
import threading
import time
import weakref
from unittest import mock

import pytest

import aioqemu_loop

VAR = contextvars.ContextVar("VAR", default="default")


def callback(*args):
    """A named callback, for texts."""


class TestCallSoon:
    def test_callbacks_run_in_the_order_in_which_they_were_scheduled(self, any_loop, turn):
        order = []
        for i in range(1000):  # more than the ring holds at first
            any_loop.call_soon(order.append, i)
        turn(any_loop)
        assert order == list(range(1000))

    def test_order_is_kept_while_the_queue_grows_half_full(self, any_loop, turn):
        order = []
        for i in range(200):
            any_loop.call_soon(order.append, i)
        turn(any_loop)

        def more():
            for i in range(200, 2000):
                any_loop.call_soon(order.append, i)

        any_loop.call_soon(more)
        turn(any_loop, 2)
        assert order == list(range(2000))

    def test_a_turn_runs_exactly_what_was_queued_when_it_began(self, any_loop, turn):
        ran = []

        def again(depth):
            ran.append(depth)
            any_loop.call_soon(again, depth + 1)

        any_loop.call_soon(again, 0)
        for expected in range(1, 6):
            turn(any_loop)
            assert ran == list(range(expected))

    def test_stop_finishes_the_turn_and_leaves_the_rest_for_the_next_run(self, any_loop, turn):
        ran = []
        any_loop.call_soon(any_loop.stop)
        any_loop.call_soon(ran.append, 1)
        any_loop.call_soon(lambda: any_loop.call_soon(ran.append, 2))
        any_loop.run_forever()
        assert ran == [1]
        turn(any_loop)
        assert ran == [1, 2]

    def test_arguments_arrive_and_the_result_is_dropped(self, any_loop, turn):
        got = []

        def take(*args):
            got.append(args)
            return object()

        for args in [(), (1,), (1, 2), tuple(range(20))]:
            any_loop.call_soon(take, *args)
        turn(any_loop)
        assert got == [(), (1,), (1, 2), tuple(range(20))]

    def test_cancelled_callbacks_do_not_run(self, any_loop, turn):
        ran = []
        handles = [any_loop.call_soon(ran.append, i) for i in range(5)]
        handles[1].cancel()
        any_loop.call_soon(handles[4].cancel)  # queued behind it: too late
        handles[0].cancel()
        turn(any_loop)
        assert ran == [2, 3, 4]

    def test_a_callback_may_cancel_the_one_behind_it(self, any_loop, turn):
        ran = []
        any_loop.call_soon(lambda: later.cancel())
        later = any_loop.call_soon(ran.append, 1)
        turn(any_loop)
        assert ran == []

    def test_a_callback_may_cancel_itself_and_still_use_its_arguments(self, any_loop, turn):
        got = []

        def run(box, payload):
            box[0].cancel()
            got.append(payload)

        box = [None]
        box[0] = any_loop.call_soon(run, box, "payload")
        turn(any_loop)
        assert got == ["payload"]

    def test_references_are_dropped_after_the_call(self, any_loop, turn):
        class Token:
            pass

        token = Token()
        ref = weakref.ref(token)
        any_loop.call_soon(callback, token)
        cancelled = any_loop.call_soon(callback, token)
        timer = any_loop.call_later(3600, callback, token)
        del token
        cancelled.cancel()
        timer.cancel()
        turn(any_loop)
        assert ref() is None

    def test_keyword_only_context_and_no_other_keyword(self, any_loop):
        with pytest.raises(TypeError):
            any_loop.call_soon(callback, nonsense=1)
        with pytest.raises(TypeError):
            any_loop.call_soon()


class TestTimers:
    def test_time_is_the_monotonic_clock(self, any_loop):
        before = time.monotonic()
        now = any_loop.time()
        assert before <= now <= time.monotonic()
        assert isinstance(now, float)

    def test_timers_run_in_the_order_of_their_times(self, any_loop):
        rng = random.Random(1)
        start = any_loop.time() + 0.02
        whens = [start + rng.random() * 0.02 for _ in range(500)]
        order = []
        for when in whens:
            any_loop.call_at(when, order.append, when)
        any_loop.call_at(start + 0.03, any_loop.stop)
        any_loop.run_forever()
        assert order == sorted(whens)

    def test_equal_times_run_in_the_order_of_scheduling(self, loop):
        when = loop.time() + 0.01
        order = []
        for i in range(500):
            loop.call_at(when, order.append, i)
        loop.call_at(when, loop.stop)
        loop.run_forever()
        assert order == list(range(500))

    def test_no_timer_is_early_by_the_loops_clock(self, loop):
        rng = random.Random(2)
        early = []

        def check(when):
            now = loop.time()
            if now < when:
                early.append((when, now))

        for _ in range(2000):
            when = loop.time() + rng.random() * 0.2
            loop.call_at(when, check, when)
        loop.call_later(0.21, loop.stop)
        loop.run_forever()
        assert early == []

    def test_an_idle_loop_sleeps_until_the_timer_and_not_much_longer(self, any_loop):
        late = []
        for delay in (0.0005, 0.0021, 0.01):
            when = any_loop.time() + delay
            any_loop.call_at(when, any_loop.stop)
            any_loop.run_forever()
            late.append(any_loop.time() - when)
        assert min(late) < 0.02, late

    def test_a_cancelled_timer_does_not_run(self, any_loop, turn):
        ran = []
        handles = [any_loop.call_later(0.001, ran.append, i) for i in range(300)]
        for i, handle in enumerate(handles):
            if i % 3:  # most of the heap: it is compacted
                handle.cancel()
        any_loop.call_later(0.01, any_loop.stop)
        any_loop.run_forever()
        assert sorted(ran) == list(range(0, 300, 3))

    def test_a_due_timer_can_be_cancelled_by_the_callback_before_it(self, any_loop, turn):
        ran = []
        when = any_loop.time() - 1
        any_loop.call_at(when, lambda: second.cancel())
        second = any_loop.call_at(when + 0.5, ran.append, 1)
        turn(any_loop, 3)
        assert ran == []
        assert second.cancelled()

    @pytest.mark.parametrize("delay", [0, -1, -math.inf, math.nan, -1e300, 0.0, False])
    def test_what_is_not_in_the_future_runs_in_the_next_turn(self, any_loop, turn, delay):
        ran = []
        any_loop.call_later(delay, ran.append, 1)
        turn(any_loop, 2)
        assert ran == [1]

    @pytest.mark.parametrize("delay", [math.inf, 1e300, 1e10, 10**18])
    def test_what_is_far_away_does_not_run_and_does_not_disturb(self, any_loop, delay):
        ran = []
        far = any_loop.call_later(delay, ran.append, 1)
        any_loop.call_later(0.001, any_loop.stop)
        any_loop.run_forever()
        assert ran == []
        assert far._scheduled
        far.cancel()

    def test_none_is_refused_by_name(self, loop):
        with pytest.raises(TypeError, match=r"^delay must not be None$"):
            loop.call_later(None, callback)
        with pytest.raises(TypeError, match=r"^when cannot be None$"):
            loop.call_at(None, callback)

    @pytest.mark.parametrize("bad", ["1", object(), [1]])
    def test_what_is_no_number_is_refused_and_the_loop_goes_on(self, loop, turn, bad):
        with pytest.raises(TypeError):
            loop.call_later(bad, callback)
        with pytest.raises(TypeError):
            loop.call_at(bad, callback)
        turn(loop)

    def test_a_timer_set_by_a_timer_waits_for_the_next_turn(self, any_loop, turn):
        ran = []

        def first():
            ran.append("first")
            any_loop.call_later(0, ran.append, "second")

        any_loop.call_at(any_loop.time() - 1, first)
        turn(any_loop, 1)
        assert ran == ["first"]
        turn(any_loop, 2)
        assert ran == ["first", "second"]

    def test_timers_do_not_starve_behind_callbacks_that_reschedule_themselves(self, any_loop):
        def busy():
            any_loop.call_soon(busy)

        any_loop.call_soon(busy)
        any_loop.call_later(0.01, any_loop.stop)
        any_loop.run_forever()

    def test_timers_that_were_set_stay_over_runs(self, any_loop, turn):
        ran = []
        any_loop.call_later(0.005, ran.append, 1)
        turn(any_loop, 3)
        any_loop.call_later(0.02, any_loop.stop)
        any_loop.run_forever()
        assert ran == [1]

    def test_ten_thousand_timers_set_and_cancelled_leave_nothing(self, loop, turn):
        class Token:
            pass

        token = Token()
        ref = weakref.ref(token)
        for _ in range(10_000):
            loop.call_later(3600, callback, token).cancel()
        del token
        turn(loop)
        assert ref() is None


class TestAnotherClock:
    """Tests of timeouts put their own function in the place of loop.time()."""

    def test_timers_go_by_a_replaced_time(self, any_loop, turn):
        now = start = any_loop.time()
        ran = []
        with mock.patch.object(any_loop, "time", lambda: now):
            handle = any_loop.call_later(600, ran.append, "later")
            assert handle.when() == start + 600
            turn(any_loop)
            now = start + 599.999
            turn(any_loop)
            assert not ran
            now = start + 600
            turn(any_loop)
            assert ran == ["later"]
        assert any_loop.time() == pytest.approx(time.monotonic(), abs=60)
        any_loop.call_later(600, ran.append, "not yet")
        any_loop.call_later(0, ran.append, "again")
        turn(any_loop)
        assert ran == ["later", "again"]

    def test_a_subclass_with_a_time_of_its_own(self, fdmon, turn):
        class Simulated(aioqemu_loop.Loop):
            now = 1000.5

            def time(self):
                return self.now

        loop = Simulated(fdmon)
        ran = []
        with contextlib.closing(loop):
            loop.call_at(2000, ran.append, "at")
            loop.call_later(1, ran.append, "later")
            turn(loop)
            assert ran == []
            loop.now = 1001.5
            turn(loop)
            assert ran == ["later"]
            loop.now = 2000
            turn(loop)
        assert ran == ["later", "at"]

    def test_a_time_that_fails_comes_out_of_run_forever(self, any_loop, monkeypatch, turn):
        def broken():
            raise ZeroDivisionError

        any_loop.call_later(600, callback)
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(any_loop, "time", broken)
            turn(any_loop)
        turn(any_loop)


class TestThreadsafe:
    def test_no_wake_up_is_lost_between_sixteen_threads_and_a_sleeping_loop(self, any_loop):
        threads, calls = 16, 2000
        counts = [0] * threads
        order_broken = []
        finished = threading.Semaphore(0)

        def count(thread, i):
            if counts[thread] != i:
                order_broken.append((thread, i))
            counts[thread] += 1
            if sum(counts) == threads * calls:
                any_loop.stop()

        def work(thread):
            for i in range(calls):
                any_loop.call_soon_threadsafe(count, thread, i)
                if i % 64 == 0:
                    time.sleep(0)  # let the loop fall asleep at different places
            finished.release()

        workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        any_loop.run_forever()
        for worker in workers:
            worker.join()
        assert counts == [calls] * threads
        assert order_broken == []

    def test_every_single_call_wakes_a_loop_that_has_nothing_else(self, any_loop):
        """Ping-pong: each call finds the loop asleep or falling asleep, and nothing else would wake it."""
        rounds = 3000
        answered = threading.Semaphore(0)

        def caller():
            for _ in range(rounds):
                any_loop.call_soon_threadsafe(answered.release)
                assert answered.acquire(timeout=20)
            any_loop.call_soon_threadsafe(any_loop.stop)

        thread = threading.Thread(target=caller)
        thread.start()
        any_loop.run_forever()
        thread.join()

    def test_a_call_before_the_run_is_not_lost(self, any_loop):
        ran = []
        thread = threading.Thread(target=any_loop.call_soon_threadsafe, args=(ran.append, 1))
        thread.start()
        thread.join()
        any_loop.call_soon(any_loop.stop)
        any_loop.run_forever()
        assert ran == [1]

    def test_the_context_of_the_calling_thread_is_copied(self, any_loop):
        seen = []

        def work():
            VAR.set("thread")
            any_loop.call_soon_threadsafe(lambda: seen.append(VAR.get()))
            any_loop.call_soon_threadsafe(any_loop.stop)

        thread = threading.Thread(target=work)
        thread.start()
        any_loop.run_forever()
        thread.join()
        assert seen == ["thread"]

    def test_run_coroutine_threadsafe(self, any_loop):
        async def double(x):
            await asyncio.sleep(0)
            return 2 * x

        def work():
            try:
                futures = [asyncio.run_coroutine_threadsafe(double(i), any_loop) for i in range(100)]
                results.extend(future.result(20) for future in futures)
            finally:
                any_loop.call_soon_threadsafe(any_loop.stop)

        results = []
        thread = threading.Thread(target=work)
        thread.start()
        any_loop.run_forever()
        thread.join()
        assert results == [2 * i for i in range(100)]

    def test_after_close_it_raises_also_from_a_thread(self, any_loop):
        any_loop.close()
        raised = []

        def work():
            try:
                any_loop.call_soon_threadsafe(callback)
            except RuntimeError as exc:
                raised.append(str(exc))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert raised == ["Event loop is closed"]


class TestContexts:
    def test_each_callback_has_a_copy_of_the_context_it_was_scheduled_in(self, any_loop, turn):
        seen = []

        def change(value):
            seen.append(VAR.get())
            VAR.set(value)

        any_loop.call_soon(change, "a")
        any_loop.call_soon(change, "b")
        any_loop.call_later(0, change, "c")
        turn(any_loop, 2)
        assert seen == ["default"] * 3
        assert VAR.get() == "default"

    def test_context_argument_is_used_and_keeps_changes(self, any_loop, turn):
        context = contextvars.copy_context()
        seen = []

        def step(value):
            seen.append(VAR.get())
            VAR.set(value)

        any_loop.call_soon(step, "1", context=context)
        any_loop.call_soon_threadsafe(step, "2", context=context)
        any_loop.call_later(0, step, "3", context=context)
        any_loop.call_at(0, step, "4", context=context)
        turn(any_loop, 2)
        assert seen[:2] == ["default", "1"]
        assert sorted([*seen[2:], context[VAR]]) == ["2", "3", "4"]

    def test_a_context_that_is_entered_already_is_told_to_the_handler_and_the_loop_goes_on(
        self, any_loop, errors, caplog
    ):
        context = contextvars.copy_context()
        ran = []

        def inside():
            any_loop.call_soon(ran.append, "never", context=context)
            any_loop.call_soon(ran.append, "after")
            any_loop.call_soon(any_loop.stop)
            any_loop.run_forever()

        context.run(inside)
        assert ran == ["after"]
        if sys.version_info < (3, 12):
            assert len(errors) == 1
            assert isinstance(errors[0]["exception"], RuntimeError)
            assert "cannot enter context" in str(errors[0]["exception"])
            assert "Exception in callback" in errors[0]["message"]
        else:  # the handler itself is run in the handle's context from 3.12 on, which fails in the same way
            assert "Unhandled error in exception handler" in caplog.text
            assert "cannot enter context" in caplog.text
        errors.clear()

    def test_what_is_no_context_is_told_to_the_handler_or_refused(self, any_loop, errors, turn):
        ran = []
        with contextlib.suppress(TypeError):
            any_loop.call_soon(callback, context=42)
        any_loop.call_soon(ran.append, 1)
        turn(any_loop)
        assert ran == [1]
        errors.clear()

    def test_the_loops_own_context_is_left_after_an_exception(self, any_loop, errors, turn):
        def fail():
            VAR.set("spoiled")
            raise ZeroDivisionError

        seen = []
        any_loop.call_soon(fail)
        any_loop.call_soon(lambda: seen.append(VAR.get()))
        turn(any_loop)
        assert seen == ["default"]
        assert VAR.get() == "default"
        errors.clear()
