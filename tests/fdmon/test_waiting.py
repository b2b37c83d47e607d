"""The contract of FDMon, continued: how a wait ends, on every backend."""

from __future__ import annotations

import signal
import threading
import time

from ..context.helpers import in_thread, rescue, run_until, thread_sleeps, turns, wait_for

OUTSIDE_TOO = True


def test_a_signal_during_a_wait_runs_its_handler_at_once(context):
    me = threading.get_native_id()
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: (seen.append(1), context.notify()))
    over = threading.Event()

    def send():
        while not seen and not over.is_set():  # again if it came just before the system call
            wait_for(lambda: thread_sleeps(me))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            over.wait(0.2)

    thread = threading.Thread(target=send)
    try:
        with rescue(context) as needed:
            thread.start()
            while not seen and not needed.is_set():
                context.poll()
        assert not needed.is_set()
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, old)


def test_an_fd_made_ready_by_a_thread_ends_the_wait(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    me = threading.get_native_id()

    def send():
        wait_for(lambda: thread_sleeps(me))
        theirs.send(b"x")

    thread = threading.Thread(target=send)
    with rescue(context) as needed:
        thread.start()
        run_until(context, lambda: reader.data)
        thread.join()
    assert not needed.is_set()


def test_a_look_without_waiting_finds_what_is_ready(context, pair, watch):
    ours, theirs = pair()
    theirs.send(b"x")
    reader = watch(ours)
    assert reader.after(1) == "r"
    theirs.send(b"x")
    assert reader.after(1) == "r"


def test_a_wait_ends_in_time_and_never_early(context, fdmon):
    for delay in (1, 1_000, 300_000, 1_500_000) * 10:
        fired = []
        due = time.monotonic_ns() + delay
        timer = context.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            context.poll()
        assert due <= fired[0] < due + 1_000_000_000


def test_an_event_is_seen_while_bottom_halves_never_stop(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    theirs.send(b"x")
    stop = time.monotonic() + 10

    def again():
        if not reader.data:
            assert time.monotonic() < stop, "the fd starves"
            context.bh_schedule_oneshot(again)

    again()
    while not reader.data:
        context.poll()


def test_another_thread_goes_on_with_the_same_handlers(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    for _ in range(5):
        theirs.send(b"x")
        in_thread(lambda: turns(context, 2))
        theirs.send(b"y")
        turns(context, 2)
    assert reader.data == b"xy" * 5
