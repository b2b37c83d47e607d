"""Bottom halves on every backend: what QEMU's test-aio.c asks of them, order, nesting, failing callbacks."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

import aioqemu_loop

from .helpers import in_thread, raising, rescue, run_until, turns


def test_a_scheduled_bottom_half_runs_once(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    turns(context)
    assert runs == []
    bh.schedule()
    assert runs == []
    assert context.poll() is True
    assert runs == [1]
    assert context.poll(False) is False
    assert runs == [1]


def test_schedules_before_a_run_are_one_run(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    for _ in range(10):
        bh.schedule()
    turns(context)
    assert runs == [1]


def test_one_that_schedules_itself_runs_once_per_poll(context):
    runs = []

    def callback():
        runs.append(1)
        if len(runs) < 10:
            bh.schedule()

    bh = context.bh_new(callback)
    bh.schedule()
    for expected in range(1, 11):
        assert context.poll(False) is True
        assert len(runs) == expected
    assert context.poll(False) is False


def test_cancelled_before_its_turn_it_does_not_run(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    bh.schedule()
    bh.cancel()
    turns(context)
    assert runs == []
    bh.schedule()
    turns(context)
    assert runs == [1]


def test_poll_makes_no_progress_with_a_cancelled_one(context):
    # "Returns True if any callback ran": none did. Callers of QEMU's aio_poll loop on this value.
    bh = context.bh_new(lambda: None)
    bh.schedule()
    bh.cancel()
    assert context.poll(False) is False


def test_cancel_and_schedule_again_before_its_turn_is_one_run(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    bh.schedule()
    bh.cancel()
    bh.schedule()
    turns(context)
    assert runs == [1]


def test_deleted_it_never_runs_again(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    bh.schedule()
    bh.delete()
    turns(context)
    bh.schedule()
    turns(context)
    assert runs == []


def test_it_may_delete_itself(context):
    runs = []

    def callback():
        runs.append(1)
        if len(runs) < 5:
            bh.schedule()
        else:
            bh.delete()
            bh.schedule()

    bh = context.bh_new(callback)
    bh.schedule()
    turns(context, 20)
    assert len(runs) == 5


def test_many_may_delete_themselves_and_each_other_in_one_turn(context):
    runs = []
    halves = []

    def first():
        runs.append("first")
        for bh in halves[:5]:
            bh.delete()

    halves.append(context.bh_new(first))
    for number in range(1, 10):
        halves.append(context.bh_new(lambda number=number: runs.append(number)))
    for bh in halves:
        bh.schedule()
    context.poll(False)
    assert runs == ["first", 5, 6, 7, 8, 9]
    turns(context)
    assert len(runs) == 6


def test_polling_until_there_is_no_progress_flushes_all(context):
    runs = []

    def step(left):
        runs.append(left)
        if left:
            context.bh_schedule_oneshot(lambda: step(left - 1))

    step(7)
    while context.poll(False):
        pass
    assert runs == [7, 6, 5, 4, 3, 2, 1, 0]


def test_they_run_in_the_order_of_scheduling(context):
    # QEMU's own order is last in, first out; asyncio's rule wins here. 1,000 outgrow the first queue (256).
    runs = []
    for number in range(1000):
        context.bh_schedule_oneshot(lambda number=number: runs.append(number))
    context.poll(False)
    assert runs == list(range(1000))


def test_what_is_scheduled_during_a_turn_waits_for_the_next(context):
    runs = []

    def first():
        context.bh_schedule_oneshot(lambda: runs.append("next"))
        runs.append("first")

    context.bh_schedule_oneshot(first)
    context.bh_schedule_oneshot(lambda: runs.append("second"))
    context.poll(False)
    assert runs == ["first", "second"]
    context.poll(False)
    assert runs == ["first", "second", "next"]


def test_one_scheduled_by_a_thread_ends_a_sleeping_poll(context):
    runs = []
    bh = context.bh_new(lambda: runs.append(threading.get_ident()))
    thread = threading.Thread(target=bh.schedule)
    with rescue(context) as needed:
        thread.start()
        run_until(context, lambda: runs)
    thread.join()
    assert not needed.is_set()
    assert runs == [threading.get_ident()]


def test_none_is_lost_when_threads_schedule_all_the_time(context):
    # Each thread's one-shots come exactly once and in its order, however the loop's sleeps and wake-ups fall.
    runs = {number: [] for number in range(4)}
    count = 2000

    def produce(number):
        for i in range(count):
            context.bh_schedule_oneshot(lambda i=i: runs[number].append(i))

    threads = [threading.Thread(target=produce, args=(number,)) for number in runs]
    for thread in threads:
        thread.start()
    with rescue(context, 20) as needed:
        while sum(map(len, runs.values())) < 4 * count and not needed.is_set():
            context.poll()
    for thread in threads:
        thread.join()
    assert not needed.is_set()
    assert all(seen == list(range(count)) for seen in runs.values())


# -- nested polls --


def test_a_nested_poll_runs_the_rest_of_the_batch_once_and_in_order(context):
    runs = []

    def nesting():
        runs.append("nesting")
        context.bh_schedule_oneshot(lambda: runs.append("new"))
        while context.poll(False):
            pass
        runs.append("nested poll done")

    context.bh_schedule_oneshot(nesting)
    for number in range(3):
        context.bh_schedule_oneshot(lambda number=number: runs.append(number))
    assert context.poll(False) is True
    assert runs == ["nesting", 0, 1, 2, "new", "nested poll done"]
    assert context.poll(False) is False


def test_nested_polls_may_be_deep(context):
    runs = []

    def nesting(depth):
        runs.append(depth)
        if depth < 50:
            context.bh_schedule_oneshot(lambda: nesting(depth + 1))
            assert context.poll() is True
        runs.append(-depth)

    context.bh_schedule_oneshot(lambda: nesting(1))
    context.poll()
    assert runs == [*range(1, 51), *range(-50, 0)]


def test_an_outer_batch_goes_on_after_a_nested_poll_with_what_came_before_its_end(context):
    # The nested turn runs only part (it fails at "bad"); the outer one must go on behind that, not repeat.
    runs = []

    def nesting():
        runs.append("nesting")
        with pytest.raises(ZeroDivisionError):
            context.poll(False)

    context.bh_schedule_oneshot(nesting)
    context.bh_schedule_oneshot(lambda: runs.append("a"))
    context.bh_schedule_oneshot(raising(ZeroDivisionError()))
    context.bh_schedule_oneshot(lambda: runs.append("b"))
    context.poll(False)
    assert runs == ["nesting", "a", "b"]


# -- exceptions --


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_comes_out_of_poll_and_the_rest_runs_in_the_next(context, kind):
    runs = []
    context.bh_schedule_oneshot(lambda: runs.append(1))
    context.bh_schedule_oneshot(raising(kind("boo")))
    context.bh_schedule_oneshot(lambda: runs.append(2))
    context.bh_schedule_oneshot(lambda: runs.append(3))
    with pytest.raises(kind, match="boo"):
        context.poll(False)
    assert runs == [1]
    assert context.compute_timeout() == 0
    context.poll()
    assert runs == [1, 2, 3]
    in_thread(lambda: context.poll(False))  # the context does not take itself for running any more


def test_one_that_failed_can_be_scheduled_again(context):
    runs = []

    def callback():
        runs.append(1)
        raise ValueError

    bh = context.bh_new(callback)
    for _ in range(3):
        bh.schedule()
        with pytest.raises(ValueError):
            context.poll(False)
    assert len(runs) == 3


# -- lifetime --


def test_a_callback_is_let_go_after_its_run(context):
    class Callback:
        def __call__(self):
            pass

    callback = Callback()
    gone = weakref.ref(callback)
    context.bh_schedule_oneshot(callback)
    del callback
    context.poll(False)
    assert gone() is None


def test_a_destructor_may_schedule_in_the_middle_of_a_turn(context):
    runs = []

    class Last:
        def __del__(self):
            context.bh_schedule_oneshot(lambda: runs.append("from a destructor"))

        def __call__(self):
            runs.append("last")

    for _ in range(300):
        context.bh_schedule_oneshot(Last())
    turns(context)
    assert runs.count("last") == runs.count("from a destructor") == 300


def test_close_drops_what_is_scheduled(fdmon, no_leaks):
    context = aioqemu_loop.AioContext(fdmon)
    runs = []
    bh = context.bh_new(lambda: runs.append(1))
    bh.schedule()
    context.bh_schedule_oneshot(lambda: runs.append(2))
    context.close()
    bh.schedule()
    assert runs == []


def test_an_unclosed_context_with_work_in_it_is_collected(fdmon, no_leaks):
    # The queue holds a callback that holds the context: a cycle that the garbage collector must see through.
    context = aioqemu_loop.AioContext(fdmon)
    gone = weakref.ref(context)
    context.bh_schedule_oneshot(lambda context=context: context)
    context.poll(False)
    bh = context.bh_new(lambda context=context: context)
    bh.schedule()
    timer = context.timer_new(lambda context=context: context)
    timer.mod_ns(2**62)
    del context, bh, timer
    gc.collect()
    assert gone() is None


def test_another_thread_may_run_the_context_between_polls(context):
    runs = []
    for _ in range(5):
        context.bh_schedule_oneshot(lambda: runs.append(threading.get_ident()))
        in_thread(context.poll)
        context.bh_schedule_oneshot(lambda: runs.append(threading.get_ident()))
        context.poll()
    assert len(runs) == 10
    assert set(runs[1::2]) == {threading.get_ident()}
    assert threading.get_ident() not in runs[::2]
