"""EventNotifier, and waking a context: notify() ends a sleep, and costs no system call while awake."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from aioqemu_loop import EventNotifier

from .helpers import in_thread, rescue, run_until, sleeps, thread_sleeps, turns, wait_for


def eventfds() -> set[str]:
    """The numbers of this process's eventfds."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventfd]":
                found.add(number)
        except FileNotFoundError:
            continue
    return found


def count_of(number: str) -> int:
    """The counter of an eventfd, without reading it. The kernel prints it in hexadecimal."""
    for line in Path(f"/proc/self/fdinfo/{number}").read_text().splitlines():
        if line.startswith("eventfd-count:"):
            return int(line.split()[1], 16)
    raise AssertionError("no eventfd")


@pytest.fixture
def eventfds_before():
    return eventfds()


@pytest.fixture
def wakeup_fd(eventfds_before, context):
    """The number of the context's own eventfd."""
    (number,) = eventfds() - eventfds_before
    return number


# -- EventNotifier --


def test_it_is_clear_at_first_and_set_any_number_of_times_is_set(no_leaks):
    notifier = EventNotifier()
    assert notifier.test_and_clear() is False
    for _ in range(5):
        notifier.set()
    assert notifier.test_and_clear() is True
    assert notifier.test_and_clear() is False
    notifier.close()
    notifier.close()
    assert notifier.fileno() == -1


def test_a_full_counter_counts_as_set(no_leaks):
    notifier = EventNotifier()
    os.write(notifier.fileno(), (2**64 - 2).to_bytes(8, "little"))
    notifier.set()  # would block
    assert notifier.test_and_clear() is True
    notifier.close()


def test_a_closed_one_says_so(no_leaks):
    notifier = EventNotifier()
    notifier.close()
    with pytest.raises(OSError):
        notifier.set()
    with pytest.raises(OSError):
        notifier.test_and_clear()


def test_it_is_closed_on_exec_and_does_not_block(no_leaks):
    notifier = EventNotifier()
    assert os.get_inheritable(notifier.fileno()) is False
    assert os.get_blocking(notifier.fileno()) is False
    notifier.close()


def test_the_garbage_collector_closes_a_forgotten_one(no_leaks):
    EventNotifier()


def test_a_set_notifier_is_dispatched_until_it_is_cleared(context):
    seen = []
    notifier = EventNotifier()
    context.set_event_notifier(notifier, seen.append)
    turns(context)
    assert seen == []
    notifier.set()
    assert context.poll() is True
    assert context.poll() is True  # nobody cleared it: level-triggered
    assert seen == [notifier, notifier]
    notifier.test_and_clear()
    turns(context)
    assert len(seen) == 2
    context.set_event_notifier(notifier, None)
    notifier.set()
    turns(context)
    assert len(seen) == 2
    notifier.close()


def test_waiting_for_notifiers_one_after_the_other(context):
    # test-aio.c's "event/wait" and "event/flush": ten events, each set by the one before.
    left = [10]

    def ready(notifier):
        assert notifier.test_and_clear()
        left[0] -= 1
        if left[0]:
            notifier.set()

    notifier = EventNotifier()
    context.set_event_notifier(notifier, ready)
    notifier.set()
    run_until(context, lambda: not left[0])
    assert context.poll(False) is False
    context.set_event_notifier(notifier)
    notifier.close()


def test_a_notifier_without_handler_does_not_end_a_wait(context):
    # test-aio.c's "event/wait/no-flush-cb".
    notifier = EventNotifier()
    notifier.set()
    assert sleeps(context)
    notifier.close()


def test_a_thread_sets_a_notifier(context):
    seen = []

    def ready(notifier):
        notifier.test_and_clear()
        seen.append(1)

    notifier = EventNotifier()
    context.set_event_notifier(notifier, ready)
    with rescue(context) as needed:
        thread = threading.Thread(target=notifier.set)
        thread.start()
        run_until(context, lambda: seen)
        thread.join()
    assert not needed.is_set()
    context.set_event_notifier(notifier)
    notifier.close()


# -- waking the context --


def test_notify_by_a_thread_ends_a_sleeping_poll(context):
    me = threading.get_native_id()
    asleep = threading.Event()

    def notify():
        wait_for(lambda: thread_sleeps(me))
        asleep.set()
        context.notify()

    for _ in range(5):
        asleep.clear()
        thread = threading.Thread(target=notify)
        with rescue(context) as needed:
            thread.start()
            while not asleep.is_set():  # waiting for the GIL is a sleep too
                context.poll()
        thread.join()
        assert not needed.is_set()


def test_a_notify_just_before_poll_is_not_lost(context):
    # "while not flag: poll()" against "flag = True; notify()": the notification may fall between the two.
    context.notify()
    with rescue(context) as needed:
        context.poll()
    assert not needed.is_set()


def test_one_notify_is_one_wake_up(context):
    in_thread(context.notify)
    turns(context)
    assert sleeps(context)


def test_the_notification_is_not_progress(context):
    thread = threading.Thread(target=context.notify)
    timer = context.timer_new(lambda: None)
    with rescue(context):
        context.bh_schedule_oneshot(thread.start)
        assert context.poll() is True
        thread.join()
        assert context.poll(False) is False
    timer.delete()


def test_notifying_an_awake_context_writes_nothing(wakeup_fd, context):
    turns(context)
    before = count_of(wakeup_fd)
    counts = []

    def in_callback():
        for _ in range(100):
            context.notify()
            in_thread(lambda: context.bh_schedule_oneshot(lambda: None))
        counts.append(count_of(wakeup_fd))

    context.bh_schedule_oneshot(in_callback)
    turns(context)
    context.notify()
    assert counts == [before]
    assert count_of(wakeup_fd) == before


@pytest.fixture
def keeps_the_gil():
    """A thread that has the GIL keeps it until it waits, however long the machine lets others wait."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(interval)


def test_a_sleeping_context_is_written_to_once(wakeup_fd, context, keeps_the_gil):
    me = threading.get_native_id()
    written = []
    runs = []
    done = []

    def produce():
        # Now and then the "sleep" is only that of a thread which waits for the GIL.
        while len(written) < 50:
            wait_for(lambda: thread_sleeps(me))
            before = count_of(wakeup_fd)
            for _ in range(5):  # the GIL is not given up between these
                context.bh_schedule_oneshot(lambda: runs.append(1))
            written.append(count_of(wakeup_fd) - before)
        context.bh_schedule_oneshot(lambda: done.append(1))

    thread = threading.Thread(target=produce)
    with rescue(context, 20) as needed:
        thread.start()
        while not done and not needed.is_set():
            context.poll()
        thread.join()
    assert not needed.is_set()
    assert len(runs) == 250
    if context.fdmon == "poll":  # level-triggered: reads the counter empty as soon as it is awake
        assert set(written) <= {-1, 0, 1}
    else:
        assert set(written) <= {0, 1} and 1 in written


def test_a_context_that_was_woken_sleeps_again(context):
    # An eventfd left readable must not make a level-triggered monitor spin.
    for _ in range(3):
        runs = []
        bh = context.bh_new(lambda runs=runs: runs.append(1))
        thread = threading.Thread(target=bh.schedule)
        with rescue(context) as needed:
            thread.start()
            run_until(context, lambda runs=runs: runs)
            thread.join()
        assert not needed.is_set()
    assert sleeps(context)
