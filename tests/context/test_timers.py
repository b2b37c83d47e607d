"""Timers on every backend: never early, in order, cancelled cheaply; and compute_timeout."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .helpers import rescue, run_until, sleeps, turns

FOREVER = 2**63 - 1
MS = 1_000_000


def start(context, callback, delay_ns):
    timer = context.timer_new(callback)
    timer.mod_ns(time.monotonic_ns() + delay_ns)
    return timer


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # one context for all examples: what is left over by one would fail the next
@given(delays=st.lists(st.integers(min_value=-MS, max_value=3 * MS), min_size=1, max_size=20))
def test_never_early_and_in_order(context, delays):
    fired = []
    base = time.monotonic_ns()
    timers = []
    for number, delay in enumerate(delays):
        timer = context.timer_new(lambda number=number: fired.append((number, time.monotonic_ns())))
        timer.mod_ns(base + delay)
        timers.append(timer)
    run_until(context, lambda: len(fired) == len(delays))
    assert all(when >= base + delays[number] for number, when in fired)
    if max(delays) > 0:
        # Those of the past come in one turn, the rest one by one: sorted by time, then by order of setting.
        assert [number for number, _ in fired] == sorted(range(len(delays)), key=delays.__getitem__)
    assert not any(timer.pending() for timer in timers)


def test_each_of_many_short_sleeps_is_long_enough(context):
    for delay in (1, 999, 50_000, 999_999, 1_000_001, 2_500_000) * 5:
        due = time.monotonic_ns() + delay
        fired = []
        timer = context.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            context.poll()
        assert fired[0] >= due


def test_sleeps_are_precise_below_a_millisecond(context):
    # epoll_wait and io_uring timeouts in ms would take 1 ms at least for each of these.
    late = []
    for _ in range(50):
        due = time.monotonic_ns() + 200_000
        fired = []
        timer = context.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            context.poll()
        late.append(fired[0] - due)
    assert sorted(late)[5] < 600_000


def test_a_sleep_is_one_look_not_many(context):
    # Rounding down somewhere would make the context spin through the last part of each sleep.
    fired = []
    start(context, lambda: fired.append(1), 20 * MS)
    count = 0
    while not fired:
        context.poll()
        count += 1
    # A wake-up without reason happens (a ring closed a moment ago interrupts whoever runs); spinning would be hundreds.
    assert count <= 10


def test_equal_times_keep_the_order_of_setting(context):
    fired = []
    due = time.monotonic_ns()
    timers = [context.timer_new(lambda i=i: fired.append(i)) for i in range(200)]
    for timer in timers:
        timer.mod_ns(due)
    context.poll(False)
    assert fired == list(range(200))


def test_a_timer_of_the_past_runs_in_the_next_poll_and_once(context):
    fired = []
    start(context, lambda: fired.append(1), -MS)
    assert context.compute_timeout() == 0
    assert context.poll() is True
    turns(context)
    assert fired == [1]


@pytest.mark.parametrize("when", [-1, -5, -(10**15), -(2**63), 0])
def test_a_time_before_the_clock_began_is_due_at_once(context, when):
    # Negative numbers are times too; -1 must not be mistaken for "no timer".
    fired = []
    context.timer_new(lambda: fired.append(1)).mod_ns(when)
    assert context.compute_timeout() == 0
    with rescue(context) as needed:
        context.poll()
    assert fired == [1]
    assert not needed.is_set()


def test_a_time_before_the_clock_began_does_not_hide_later_timers(context):
    fired = []
    timer = context.timer_new(lambda: fired.append("soon"))
    timer.mod_ns(time.monotonic_ns() + MS)
    past = context.timer_new(lambda: fired.append("past"))
    past.mod_ns(-7)
    with rescue(context) as needed:
        run_until(context, lambda: len(fired) == 2)
    assert fired == ["past", "soon"]
    assert not needed.is_set()


def test_the_end_of_time_is_no_reason_to_spin(context):
    # now + timeout overflows somewhere if it is not taken care of, and the sleep ends at once.
    context.timer_new(lambda: None).mod_ns(FOREVER)
    assert sleeps(context)


def test_a_number_that_is_no_time_is_refused(context):
    timer = context.timer_new(lambda: None)
    with pytest.raises(OverflowError):
        timer.mod_ns(2**63)
    with pytest.raises(TypeError):
        timer.mod_ns("soon")
    assert not timer.pending()
    assert context.compute_timeout() == -1


def test_delete_forgets_the_time_and_mod_sets_another(context):
    fired = []
    timer = start(context, lambda: fired.append(1), -MS)
    assert timer.pending()
    timer.delete()
    assert not timer.pending()
    turns(context)
    assert fired == []
    timer.delete()
    timer.mod_ns(time.monotonic_ns())
    turns(context)
    assert fired == [1]


def test_mod_of_a_pending_timer_moves_it(context):
    fired = []
    earlier = start(context, lambda: fired.append("earlier"), 3600 * 1000 * MS)
    later = start(context, lambda: fired.append("later"), -MS)
    earlier.mod_ns(time.monotonic_ns() - MS)
    later.mod_ns(time.monotonic_ns() + 3600 * 1000 * MS)
    turns(context)
    assert fired == ["earlier"]
    assert later.pending()
    later.mod_ns(0)
    turns(context)
    assert fired == ["earlier", "later"]


def test_cancelling_some_keeps_the_rest(context):
    fired = []
    due = time.monotonic_ns() - MS
    timers = [context.timer_new(lambda i=i: fired.append(i)) for i in range(1000)]
    for i, timer in enumerate(timers):
        timer.mod_ns(due - (i * 7919) % 1000)
    expected = [i for i in range(1000) if i % 10 == 3]
    for i, timer in enumerate(timers):
        if i % 10 != 3:
            timer.delete()
    context.poll(False)
    assert fired == sorted(expected, key=lambda i: -((i * 7919) % 1000))


def test_setting_and_cancelling_for_ever_keeps_memory_bounded(context):
    def cycle(count):
        for _ in range(count):
            timer = context.timer_new(callback)
            timer.mod_ns(FOREVER)
            timer.delete()

    def callback():
        pass

    kept = context.timer_new(callback)
    kept.mod_ns(FOREVER)
    cycle(1000)
    gc.collect()
    before = sys.getallocatedblocks()
    cycle(100_000)
    gc.collect()
    assert sys.getallocatedblocks() - before < 2000
    assert kept.pending()


def test_moving_one_timer_for_ever_keeps_memory_bounded(context):
    # What a keep-alive timer does: never cancelled, always moved on.
    timer = context.timer_new(lambda: None)
    timer.mod_ns(FOREVER - 1)
    references = sys.getrefcount(timer)
    for i in range(100_000):
        timer.mod_ns(FOREVER - i % 7)
    assert sys.getrefcount(timer) - references < 500
    assert timer.pending()


def test_a_timer_set_in_a_callback_for_now_runs_in_the_next_turn(context):
    fired = []

    def callback():
        fired.append(time.monotonic_ns())
        if len(fired) < 3:
            timer.mod_ns(time.monotonic_ns())

    timer = context.timer_new(callback)
    timer.mod_ns(0)
    for expected in (1, 2, 3, 3):
        context.poll(False)
        assert len(fired) == expected


def test_due_timers_run_behind_what_is_ready_already(context):
    order = []
    start(context, lambda: order.append("timer"), -MS)
    context.bh_schedule_oneshot(lambda: order.append("bottom half"))
    context.poll()
    assert order == ["bottom half", "timer"]


def test_deleting_a_timer_that_is_due_in_the_same_turn(context):
    # Both are in the ready queue by then. Still a deleted one does not run, as QEMU's timer_del has it.
    fired = []
    due = time.monotonic_ns() - MS

    def first():
        fired.append("first")
        second.delete()

    context.timer_new(first).mod_ns(due)
    second = context.timer_new(lambda: fired.append("second"))
    second.mod_ns(due)
    turns(context)
    assert fired == ["first"]


def test_moving_a_timer_that_is_due_in_the_same_turn(context):
    fired = []
    due = time.monotonic_ns() - MS

    def first():
        fired.append("first")
        second.mod_ns(FOREVER)

    context.timer_new(first).mod_ns(due)
    second = context.timer_new(lambda: fired.append("second"))
    second.mod_ns(due)
    turns(context)
    assert fired == ["first"]
    assert second.pending()


def test_a_timer_set_by_a_thread_shortens_a_sleep(context):
    fired = []
    timer = context.timer_new(lambda: fired.append(1))
    with rescue(context, 5) as needed:
        thread = threading.Thread(target=lambda: timer.mod_ns(time.monotonic_ns() + MS))
        context.bh_schedule_oneshot(thread.start)
        run_until(context, lambda: fired)
        thread.join()
    assert not needed.is_set()


def test_destructors_may_set_and_cancel_timers_while_dead_ones_are_dropped(context):
    made = []

    class Callback:
        def __init__(self, depth):
            self.depth = depth

        def __call__(self):
            made.append("ran")

        def __del__(self):
            if self.depth and not context.closed:
                for _ in range(3):
                    timer = context.timer_new(Callback(self.depth - 1))
                    timer.mod_ns(FOREVER)
                    timer.delete()

    for _ in range(500):
        timer = context.timer_new(Callback(2))
        timer.mod_ns(FOREVER)
        timer.delete()
    keep = start(context, lambda: made.append("kept"), -MS)
    turns(context)
    assert made == ["kept"]
    assert not keep.pending()


def test_a_fired_timer_lets_its_callback_go(context):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    start(context, callback, -MS)
    del callback
    context.poll(False)
    assert gone() is None


# -- compute_timeout --


def test_the_timeout_is_without_limit_when_there_is_nothing(context):
    assert context.compute_timeout() == -1


def test_the_timeout_is_nothing_while_there_is_work(context):
    bh = context.bh_new(lambda: None)
    bh.schedule()
    assert context.compute_timeout() == 0
    context.poll()
    assert context.compute_timeout() == -1


def test_the_timeout_is_that_of_the_nearest_live_timer(context):
    far = start(context, lambda: None, 10_000 * MS)
    near = start(context, lambda: None, 1_000 * MS)
    assert 0 < context.compute_timeout() <= 1_000 * MS
    near.delete()
    assert 1_000 * MS < context.compute_timeout() <= 10_000 * MS
    far.delete()
    assert context.compute_timeout() == -1
