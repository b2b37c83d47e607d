"""set_fdmon: from every backend to every other one, with handlers registered and events pending."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import threading
import time

import pytest

import aioqemu_loop

from ..context.helpers import in_thread, rescue, run_until, sleeps, thread_sleeps, turns, wait_for
from .conftest import EVERY, make_spec


@pytest.fixture(params=EVERY)
def target(request):
    """The backend that is changed to."""
    make_spec(request.param)
    return request.param


@pytest.mark.parametrize("polled", [True, False], ids=["after polls", "before any poll"])
def test_no_event_is_lost_and_none_doubled(context, target, pair, watch, polled):
    silent, pending, later = pair(), pair(), pair()
    readers = [watch(ours) for ours, _ in (silent, pending, later)]
    writer = watch(pair()[0], read=False, write=True)
    if polled:
        turns(context, 2)
    pending[1].send(b"1")  # known to the old monitor's kernel side, not yet to us
    context.set_fdmon(make_spec(target))
    assert context.fdmon == target
    later[1].send(b"2")
    turns(context)
    assert [reader.data for reader in readers] == [b"", b"1", b"2"]
    assert [len(reader.calls) for reader in readers] == [0, 1, 1]
    assert set(writer.after(2)) == {"w"}
    writer.remove()
    pending[1].send(b"3")
    turns(context)
    assert readers[1].data == b"13"


def test_an_event_that_was_just_dispatched_comes_again(context, target, pair, watch):
    # On io_uring such a handler waits to be armed again at the moment of the change.
    ours, theirs = pair()
    reader = watch(ours, drain=False)
    theirs.send(b"x")
    turns(context, 2)
    context.set_fdmon(make_spec(target))
    assert reader.after(3) == "rrr"


def test_there_and_back_many_times(context, fdmon, target, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    for i in range(20):
        context.set_fdmon(make_spec(target if i % 2 == 0 else fdmon))
        if i % 3:
            theirs.send(b"x")
            assert reader.after(2) == "r"
    theirs.send(b"x")
    assert reader.after() == "r"


@pytest.mark.parametrize("polled", [True, False], ids=["after polls", "before any poll"])
def test_it_can_still_be_woken(context, fdmon, target, polled):
    for name in (target, fdmon, target):
        if polled:
            turns(context, 1)
        context.set_fdmon(make_spec(name))
    me = threading.get_native_id()
    ran = []

    def wake():
        wait_for(lambda: thread_sleeps(me))
        context.bh_schedule_oneshot(lambda: ran.append(1))

    thread = threading.Thread(target=wake)
    timer = context.timer_new(lambda: None)
    timer.mod_ns(time.monotonic_ns() + 2_000_000_000)  # what ends the sleep if the wake-up does not
    thread.start()
    while not ran:
        context.poll()
    thread.join()
    assert timer.pending()
    timer.delete()


def test_in_a_callback_with_others_queued(context, target, pair, watch):
    socks = [pair() for _ in range(3)]
    readers = [watch(ours) for ours, _ in socks]
    context.bh_schedule_oneshot(lambda: context.set_fdmon(make_spec(target)))
    for _, theirs in socks:
        theirs.send(b"x")
    turns(context)
    assert [reader.data for reader in readers] == [b"x"] * 3
    assert [reader.calls for reader in readers] == [["r"]] * 3


def test_a_changed_wish_that_the_old_monitor_never_saw_moves_too(context, target, pair, watch):
    ours, theirs = pair()
    both = watch(ours, drain=False)
    turns(context)
    theirs.send(b"x")
    both.set(False, True)
    context.set_fdmon(make_spec(target))
    assert set(both.after()) == {"w"}


def test_timers_and_bottom_halves_stay(context, target):
    ran = []
    context.bh_schedule_oneshot(lambda: ran.append("bottom half"))
    timer = context.timer_new(lambda: ran.append("timer"))
    timer.mod_ns(time.monotonic_ns())
    context.set_fdmon(make_spec(target))
    turns(context)
    assert ran == ["bottom half", "timer"]


def test_the_old_monitor_leaves_no_fd_and_no_port(context, target, pair, watch):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    item = watch(listener)
    turns(context)
    context.set_fdmon(make_spec(target))
    item.remove()
    listener.close()
    socket.create_server(address).close()


def test_by_another_thread_between_polls(context, target, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    turns(context)
    theirs.send(b"x")
    in_thread(lambda: context.set_fdmon(make_spec(target)))
    assert reader.after() == "r"


def test_after_the_change_it_sleeps(context, target, pair, watch):
    watch(pair()[0])
    turns(context)
    context.set_fdmon(make_spec(target))
    assert sleeps(context)


# -- changes that fail --


def regular_file():
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


@pytest.mark.parametrize("refusing", ["epoll", "io_uring"])
@pytest.mark.parametrize("first", ["poll", "python"])
def test_a_file_that_the_new_one_refuses_leaves_the_old_one_working(no_leaks, refusing, first):
    context = aioqemu_loop.AioContext(make_spec(first))
    reader, writer = os.pipe()
    fd = regular_file()
    late_reader, late_writer = os.pipe()
    seen = []
    context.set_fd_handler(reader, lambda: seen.append(os.read(reader, 1)))
    context.set_fd_handler(fd, lambda: seen.append("file"))
    context.set_fd_handler(late_reader, lambda: seen.append(os.read(late_reader, 1)))
    os.write(writer, b"x")
    os.write(late_writer, b"y")
    with pytest.raises(PermissionError):
        context.set_fdmon(make_spec(refusing))
    assert context.fdmon == first
    context.poll(False)
    assert sorted(map(str, seen)) == ["b'x'", "b'y'", "file"]
    context.set_fd_handler(fd)
    context.set_fdmon(make_spec(refusing))
    os.write(late_writer, b"z")
    run_until(context, lambda: b"z" in seen)
    context.close()
    for number in (reader, writer, fd, late_reader, late_writer):
        os.close(number)


def test_an_fd_closed_behind_its_back_costs_no_other_handler(context, target, pair, watch):
    # The change may fail with EBADF or go without the closed one; whoever comes after it must stay watched.
    (closed, _), (ours, theirs) = pair(), pair()
    # A number that the new monitor's own fd will not get.
    number = fcntl.fcntl(closed, fcntl.F_DUPFD_CLOEXEC, 500)
    context.set_fd_handler(number, lambda: None)
    reader = watch(ours)
    turns(context, 1)
    os.close(number)
    try:
        context.set_fdmon(make_spec(target))
    except OSError:
        turns(context)
    theirs.send(b"x")
    assert reader.after() == "r"
    with rescue(context) as needed:
        thread = threading.Thread(target=context.bh_schedule_oneshot, args=(lambda: None,))
        thread.start()
        while not context.poll():
            pass
        thread.join()
    assert not needed.is_set()
    context.set_fd_handler(number)


@pytest.mark.parametrize("bad, error", [("kqueue", ValueError), (7, TypeError), (lambda: None, TypeError)])
def test_a_bad_monitor_is_refused_and_the_old_one_works(context, fdmon, pair, watch, bad, error):
    ours, theirs = pair()
    reader = watch(ours)
    with pytest.raises(error):
        context.set_fdmon(bad)
    assert context.fdmon == fdmon
    theirs.send(b"x")
    assert reader.after() == "r"


def test_a_monitor_that_cannot_be_made_leaves_the_old_one_working(context, fdmon, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)

    def fails():
        raise OSError("no such thing")

    with pytest.raises(OSError, match="no such thing"):
        context.set_fdmon(fails)
    assert context.fdmon == fdmon
    theirs.send(b"x")
    assert reader.after() == "r"
