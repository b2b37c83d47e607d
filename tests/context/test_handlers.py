"""fd handlers on every backend: removed, replaced, closed while dispatching, nested, from other threads."""

from __future__ import annotations

import os
import socket
import threading

import pytest

import aioqemu_loop

from .helpers import in_thread, raising, rescue, run_until, thread_sleeps, turns, wait_for


@pytest.fixture
def pairs(no_leaks):
    """Makes connected socket pairs, and closes them."""
    made = []

    def make():
        pair = socket.socketpair()
        made.extend(pair)
        for sock in pair:
            sock.setblocking(False)
        return pair

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def listener():
    sock = socket.create_server(("127.0.0.1", 0))
    yield sock
    sock.close()


def test_reader_and_writer_are_called_while_ready(context, pairs):
    ours, theirs = pairs()
    seen = []
    context.set_fd_handler(ours, lambda: seen.append(ours.recv(10)), lambda: seen.append("writable"))
    context.poll()
    assert seen == ["writable"]
    theirs.send(b"x")
    context.poll()
    assert sorted(map(str, seen[1:])) == ["b'x'", "writable"]
    context.set_fd_handler(ours)
    theirs.send(b"y")
    turns(context)
    assert len(seen) == 3


def test_setting_only_a_writer_removes_the_reader(context, pairs):
    ours, theirs = pairs()
    theirs.send(b"x")
    seen = []
    context.set_fd_handler(ours, lambda: seen.append("reader"))
    context.set_fd_handler(ours, None, lambda: seen.append("writer"))
    turns(context)
    assert set(seen) == {"writer"}
    context.set_fd_handler(ours, lambda: seen.append("reader"))
    seen.clear()
    turns(context)
    assert set(seen) == {"reader"}
    context.set_fd_handler(ours)


def test_removing_what_was_never_set_does_nothing(context, pairs):
    ours, _ = pairs()
    context.set_fd_handler(ours)
    context.set_fd_handler(ours, wait=True)
    context.set_fd_handler(ours.fileno())


def test_a_handler_may_remove_itself(context, pairs):
    ours, theirs = pairs()
    theirs.send(b"x")
    seen = []

    def reader():
        seen.append(1)
        context.set_fd_handler(ours)

    context.set_fd_handler(ours, reader, lambda: seen.append("writer"))
    turns(context)
    assert seen == [1]  # the writer was ready in the same turn, and is gone


def test_a_handler_may_remove_itself_and_close_its_fd(context, pairs):
    ours, theirs = pairs()
    theirs.send(b"x")

    def reader():
        ours.recv(1)
        context.set_fd_handler(ours)
        ours.close()

    context.set_fd_handler(ours, reader)
    run_until(context, lambda: ours.fileno() < 0)
    assert theirs.recv(1) == b""  # BlockingIOError would mean that the kernel still holds the file
    turns(context)


def test_a_removed_handler_that_was_ready_in_the_same_turn_does_not_run(context, pairs):
    socks = [pairs() for _ in range(4)]
    ran = []

    def reader(number):
        ran.append(number)
        for ours, _ in socks:
            context.set_fd_handler(ours)

    for number, (ours, theirs) in enumerate(socks):
        theirs.send(b"x")
        context.set_fd_handler(ours, lambda number=number: reader(number))
    turns(context)
    assert len(ran) == 1


def test_a_handler_that_closes_another_ready_fd_silences_it(context, pairs):
    (a, peer_a), (b, peer_b) = pairs(), pairs()
    ran = []

    def reader(mine, other):
        ran.append(mine)
        context.set_fd_handler(other)
        other.close()
        context.set_fd_handler(mine)

    for sock, other, peer in ((a, b, peer_a), (b, a, peer_b)):
        peer.send(b"x")
        context.set_fd_handler(sock, lambda sock=sock, other=other: reader(sock, other))
    turns(context)
    assert len(ran) == 1


def test_a_replaced_reader_does_not_run_any_more(context, pairs):
    (a, peer_a), (b, peer_b) = pairs(), pairs()
    ran = []

    def swap():
        ran.append("swap")
        for sock in (a, b):
            context.set_fd_handler(sock, lambda: ran.append("new"))

    for sock, peer in ((a, peer_a), (b, peer_b)):
        peer.send(b"x")
        context.set_fd_handler(sock, swap)
    context.poll()
    assert ran == ["swap"]
    turns(context, 2)
    assert ran.count("swap") == 1
    assert "new" in ran
    for sock in (a, b):
        context.set_fd_handler(sock)


def test_a_handler_set_in_a_callback_runs_in_a_later_turn(context, pairs):
    (a, peer_a), (b, peer_b) = pairs(), pairs()
    order = []
    peer_a.send(b"x")
    peer_b.send(b"x")

    def first():
        order.append("first")
        a.recv(1)
        context.set_fd_handler(b, second)

    def second():
        order.append("second")
        b.recv(1)

    context.set_fd_handler(a, first)
    context.poll()
    assert order == ["first"]
    run_until(context, lambda: len(order) == 2)
    assert order == ["first", "second"]
    for sock in (a, b):
        context.set_fd_handler(sock)


def test_an_exception_of_a_reader_comes_out_of_poll_and_the_other_readers_run(context, pairs):
    socks = [pairs() for _ in range(3)]
    ran = []
    for number, (ours, theirs) in enumerate(socks):
        theirs.send(b"x")
        context.set_fd_handler(ours, lambda ours=ours, number=number: ran.append((number, ours.recv(1))))
    bad, peer = pairs()
    peer.send(b"x")
    context.set_fd_handler(bad, raising(ValueError("reader")))
    with pytest.raises(ValueError, match="reader"):
        for _ in range(5):
            context.poll()
    context.set_fd_handler(bad)
    turns(context)
    assert sorted(ran) == [(number, b"x") for number in range(3)]
    for ours, _ in socks:
        context.set_fd_handler(ours)


# -- nested polls --


def test_a_nested_poll_dispatches_other_handlers_once(context, pairs):
    socks = [pairs() for _ in range(5)]
    order = []

    def reader(number):
        order.append(number)
        socks[number][0].recv(1)
        if len(order) == 1:
            while context.poll(False):
                pass
            order.append("end of nested")

    for number, (ours, theirs) in enumerate(socks):
        theirs.send(b"x")
        context.set_fd_handler(ours, lambda number=number: reader(number))
    turns(context)
    assert sorted(order[:5]) == [0, 1, 2, 3, 4]
    assert order[5:] == ["end of nested"]
    for ours, _ in socks:
        context.set_fd_handler(ours)


def test_a_handler_queued_in_the_outer_turn_is_not_queued_again_by_a_nested_one(context, pairs):
    # The nested turn sees the second fd ready again before the outer turn has come to it.
    (a, peer_a), (b, peer_b) = pairs(), pairs()
    ran = []

    def nesting(sock):
        ran.append(sock)
        sock.recv(1)
        if len(ran) == 1:
            with rescue(context):
                context.poll(False)

    for sock, peer in ((a, peer_a), (b, peer_b)):
        peer.send(b"x")
        context.set_fd_handler(sock, lambda sock=sock: nesting(sock))
    turns(context)  # a second run would find nothing to read: BlockingIOError
    assert set(ran) == {a, b} and len(ran) == 2
    for sock in (a, b):
        context.set_fd_handler(sock)


def test_a_nested_poll_in_a_reader_that_has_not_read_yet_reports_it_again(context, pairs):
    # Level-triggered also there; it is for the reader to notice.
    ours, theirs = pairs()
    theirs.send(b"x")
    depth = []

    def reader():
        depth.append(1)
        if len(depth) < 3:
            context.poll()
        else:
            context.set_fd_handler(ours)

    context.set_fd_handler(ours, reader)
    context.poll()
    assert len(depth) == 3


def test_a_handler_removed_by_a_nested_poll_does_not_run_in_the_outer_one(context, pairs):
    (a, peer_a), (b, peer_b) = pairs(), pairs()
    ran = []

    def remove_all():
        for sock in (a, b):
            context.set_fd_handler(sock)

    def reader(sock):
        ran.append(sock)
        context.bh_schedule_oneshot(remove_all)
        sock.recv(1)
        other = b if sock is a else a
        context.set_fd_handler(other, lambda: ran.append("replaced"))
        context.set_fd_handler(other)
        context.poll(False)

    for sock, peer in ((a, peer_a), (b, peer_b)):
        peer.send(b"x")
        context.set_fd_handler(sock, lambda sock=sock: reader(sock))
    turns(context)
    assert len(ran) == 1


# -- from other threads --


def while_it_sleeps(context, action, until):
    """Run `action` in a thread once this one sleeps; turns until `until()`. True if nobody had to help."""
    me = threading.get_native_id()

    def act():
        wait_for(lambda: thread_sleeps(me))
        action()

    thread = threading.Thread(target=act)
    with rescue(context, 5) as needed:
        thread.start()
        while not until() and not needed.is_set():
            context.poll()
        thread.join()
    return not needed.is_set()


def test_a_handler_set_by_a_thread_during_a_wait_is_called(context, pairs):
    ours, theirs = pairs()
    theirs.send(b"x")
    seen = []
    assert while_it_sleeps(
        context, lambda: context.set_fd_handler(ours, lambda: seen.append(ours.recv(1))), lambda: seen
    )
    assert seen == [b"x"]
    context.set_fd_handler(ours)


def test_a_writer_added_by_a_thread_during_a_wait_is_called_and_the_reader_kept(context, pairs):
    ours, theirs = pairs()
    seen = []

    def writable():
        seen.append("writable")
        context.set_fd_handler(ours, reader)

    def reader():
        seen.append(ours.recv(1))

    context.set_fd_handler(ours, reader)
    turns(context)
    assert while_it_sleeps(context, lambda: context.set_fd_handler(ours, reader, writable), lambda: seen)
    theirs.send(b"x")
    run_until(context, lambda: len(seen) == 2)
    assert seen == ["writable", b"x"]
    context.set_fd_handler(ours)


def test_a_handler_removed_by_a_thread_during_a_wait_is_not_called(context, pairs):
    ours, theirs = pairs()
    seen = []
    done = []

    def remove():
        context.set_fd_handler(ours)
        theirs.send(b"x")
        context.bh_schedule_oneshot(lambda: done.append(1))

    context.set_fd_handler(ours, lambda: seen.append(1))
    turns(context)
    assert while_it_sleeps(context, remove, lambda: done)
    turns(context)
    assert seen == []


def test_many_threads_set_and_remove_while_the_context_runs(context, pairs):
    failures = []
    left = [4]

    def work():
        try:
            for _ in range(200):
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    got = threading.Event()
                    theirs.send(b"x")
                    context.set_fd_handler(ours, got.set)
                    assert got.wait(10), "an event was lost"
                    context.set_fd_handler(ours, wait=True)
        except BaseException as exc:
            failures.append(exc)
        finally:
            context.bh_schedule_oneshot(lambda: left.__setitem__(0, left[0] - 1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    run_until(context, lambda: not left[0], 40)
    for thread in threads:
        thread.join()
    assert failures == []


def rebind(sock):
    """Close a listening socket and bind its port at once: EADDRINUSE if the kernel still has it."""
    address = sock.getsockname()
    sock.close()
    with socket.socket() as again:
        again.bind(address)
        again.listen()


def test_a_waiting_removal_by_a_thread_frees_the_port(context):
    for _ in range(10):
        listener = socket.create_server(("127.0.0.1", 0))
        context.set_fd_handler(listener, lambda: None)
        turns(context, 1)

        def remove(listener=listener):
            context.set_fd_handler(listener, wait=True)
            rebind(listener)
            return True

        outcome = []
        thread = threading.Thread(target=lambda remove=remove, outcome=outcome: outcome.append(remove()))
        thread.start()
        with rescue(context, 5) as needed:
            while thread.is_alive() and not needed.is_set():
                context.bh_schedule_oneshot(lambda: None)
                context.poll()
        thread.join()
        assert outcome == [True]
        assert not needed.is_set()


def test_a_removal_by_a_thread_between_two_polls_frees_the_port(context):
    # Idle, but armed by this thread's last poll: on io_uring only this thread can cancel in that ring, so the remover
    # waits for the next poll.
    for _ in range(20):
        listener = socket.create_server(("127.0.0.1", 0))
        context.set_fd_handler(listener, lambda: None)
        turns(context, 2)
        outcome = []

        def remove(listener=listener, outcome=outcome):
            context.set_fd_handler(listener, wait=True)
            rebind(listener)
            outcome.append("free")

        thread = threading.Thread(target=remove)
        thread.start()
        while thread.is_alive():
            context.poll(False)
        assert outcome == ["free"]


def test_a_removal_in_the_own_thread_frees_the_port_at_once(context, listener):
    context.set_fd_handler(listener, lambda: None)
    turns(context, 2)
    context.set_fd_handler(listener)
    rebind(listener)


def test_a_waiting_removal_ends_when_the_context_stops_running(context, pairs):
    # The remover asks while poll() is in a callback; nobody calls poll() again.
    ours, _ = pairs()
    context.set_fd_handler(ours, lambda: None)
    turns(context)
    asked = threading.Event()

    def remove():
        asked.set()
        context.set_fd_handler(ours, wait=True)

    thread = threading.Thread(target=remove, daemon=True)

    def callback():
        thread.start()
        asked.wait()
        wait_for(lambda: thread_sleeps(thread.native_id))

    context.bh_schedule_oneshot(callback)
    context.poll()
    thread.join(2)
    hangs = thread.is_alive()
    context.poll(False)  # lets it go
    thread.join()
    assert not hangs


def test_close_lets_a_waiting_remover_go(fdmon, no_leaks):
    context = aioqemu_loop.AioContext(fdmon)
    ours, theirs = socket.socketpair()
    context.set_fd_handler(ours, lambda: None)
    asked = threading.Event()

    def remove():
        asked.set()
        context.set_fd_handler(ours, wait=True)

    thread = threading.Thread(target=remove, daemon=True)

    def callback():
        thread.start()
        asked.wait()
        wait_for(lambda: thread_sleeps(thread.native_id))

    context.bh_schedule_oneshot(callback)
    context.poll()
    context.close()
    thread.join(2)
    ours.close()
    theirs.close()
    assert not thread.is_alive()


def test_a_remover_with_the_id_of_a_dead_owner_is_no_owner(context, pairs):
    # Thread ids are reused at once: the thread that removes may look like the one that polled and ended.
    ours, theirs = pairs()
    seen = []
    context.set_fd_handler(ours, lambda: seen.append(ours.recv(1)))
    other, _ = pairs()
    context.set_fd_handler(other, lambda: None)
    for _ in range(5):
        in_thread(lambda: context.poll(False))
        in_thread(lambda: context.set_fd_handler(other))
        in_thread(lambda: context.poll(False))
        in_thread(lambda: context.set_fd_handler(other, lambda: None))
    theirs.send(b"x")
    run_until(context, lambda: seen)
    context.set_fd_handler(ours)
    context.set_fd_handler(other)


# -- arguments --


def test_an_object_with_fileno_or_a_number_both_do(context, pairs):
    ours, theirs = pairs()
    seen = []
    theirs.send(b"x")
    context.set_fd_handler(ours, lambda: seen.append(1))
    context.set_fd_handler(ours.fileno(), lambda: seen.append(2))
    context.poll()
    assert seen == [2]
    context.set_fd_handler(ours.fileno())


@pytest.mark.parametrize("bad", ["text", None, 1.5, object(), -1, -(2**40)])
def test_what_is_no_fd_is_refused(context, bad):
    with pytest.raises(ValueError):
        context.set_fd_handler(bad, lambda: None)
    with pytest.raises(ValueError):
        context.set_fd_handler(bad)


def test_a_number_beyond_int_is_refused(context):
    with pytest.raises(OverflowError):
        context.set_fd_handler(2**31, lambda: None)


def test_a_closed_socket_is_refused(context, pairs):
    ours, _ = pairs()
    ours.close()
    with pytest.raises(ValueError):
        context.set_fd_handler(ours, lambda: None)


def test_a_closed_fd_is_refused_and_leaves_nothing(context):
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        context.set_fd_handler(reader, lambda: None)
    turns(context)
    context.set_fd_handler(reader)


def test_a_failing_set_of_a_writer_keeps_the_reader(context, pairs):
    ours, theirs = pairs()
    seen = []
    context.set_fd_handler(ours, lambda: seen.append(ours.recv(1)))
    with pytest.raises(ValueError):
        context.set_fd_handler(-5, lambda: None, lambda: None)
    theirs.send(b"x")
    run_until(context, lambda: seen)
    context.set_fd_handler(ours)
