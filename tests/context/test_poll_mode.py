"""Poll mode on every backend: it loses nothing, grows where that pays, and ends where it does not."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from aioqemu_loop import AioContext

from .helpers import rescue, run_until, sleeps


@pytest.fixture
def spinning(fdmon, no_leaks):
    """A context that polls busily for up to 50 us."""
    context = AioContext(fdmon, 50_000)
    yield context
    context.close()


def ping_pong(context, rounds):
    """Let another thread, which spins too, answer at once. Returns the largest poll_ns that was seen."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    left = [rounds]
    largest = [0]

    def echo():
        while True:
            try:
                data = theirs.recv(1)
            except BlockingIOError:
                continue
            if not data:
                return
            theirs.send(data)

    def reader():
        ours.recv(1)
        left[0] -= 1
        largest[0] = max(largest[0], context.poll_ns)
        if left[0]:
            ours.send(b"x")

    thread = threading.Thread(target=echo)
    thread.start()
    context.set_fd_handler(ours, reader)
    ours.send(b"x")
    run_until(context, lambda: not left[0], 30)
    context.set_fd_handler(ours)
    ours.close()
    thread.join()
    theirs.close()
    return largest[0]


def test_poll_mode_loses_nothing(spinning):
    ping_pong(spinning, 500)


def test_poll_mode_grows_when_events_come_soon_and_ends_when_they_are_rare(fdmon, no_leaks):
    # A wide limit, so that a slow machine's wake-ups (some 100 us) count as soon.
    limit = 5_000_000
    context = AioContext(fdmon, limit)
    seen = []

    def again():
        seen.append(context.poll_ns)
        timer.mod_ns(time.monotonic_ns() + 200_000)

    timer = context.timer_new(again)
    again()
    run_until(context, lambda: max(seen) > 200_000)
    grown = sorted(set(seen))
    assert grown[:3] == [0, 4_000, 8_000]  # QEMU's first step, doubled from then on
    assert grown[-1] <= limit
    timer.delete()
    rare = context.timer_new(lambda: None)

    def spins_no_more():
        # More than one sleep may be needed: a wake-up without reason soon after falling asleep lets it grow once.
        rare.mod_ns(time.monotonic_ns() + 20_000_000)
        while rare.pending():
            context.poll()
        return context.poll_ns == 0

    assert any(spins_no_more() for _ in range(20))
    context.close()


def test_poll_mode_is_never_early(spinning):
    for delay in (1_000, 20_000, 49_000, 60_000) * 20:
        fired = []
        due = time.monotonic_ns() + delay
        timer = spinning.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            spinning.poll()
        assert fired[0] >= due


def test_poll_mode_sees_what_threads_schedule(spinning):
    ran = []

    def produce():
        for i in range(500):
            spinning.bh_schedule_oneshot(lambda i=i: ran.append(i))
            while len(ran) <= i:
                os.sched_yield()

    thread = threading.Thread(target=produce)
    thread.start()
    with rescue(spinning, 20) as needed:
        while len(ran) < 500 and not needed.is_set():
            spinning.poll()
    thread.join()
    assert not needed.is_set()
    assert ran == list(range(500))


def test_poll_mode_sleeps_in_the_end(spinning):
    ping_pong(spinning, 50)
    assert sleeps(spinning)
    assert spinning.poll_ns == 0


def test_poll_mode_can_be_set_while_it_runs(context):
    assert context.poll_max_ns == 0
    context.set_poll_params(50_000)
    assert context.poll_max_ns == 50_000
    ping_pong(context, 100)
    context.set_poll_params(0)
    assert context.poll_ns == 0
    assert ping_pong(context, 100) == 0
