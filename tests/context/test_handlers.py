"""fd handlers on every backend: removed, replaced, closed while dispatching, and nested."""

from __future__ import annotations

import os

import pytest

from .helpers import raising, rescue, run_until, turns


def test_reader_and_writer_are_called_while_ready(context, pair):
    ours, theirs = pair()
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


def test_setting_only_a_writer_removes_the_reader(context, pair):
    ours, theirs = pair()
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


def test_removing_what_was_never_set_does_nothing(context, pair):
    ours, _ = pair()
    context.set_fd_handler(ours)
    context.set_fd_handler(ours, wait=True)
    context.set_fd_handler(ours.fileno())


def test_a_handler_may_remove_itself(context, pair):
    ours, theirs = pair()
    theirs.send(b"x")
    seen = []

    def reader():
        seen.append(1)
        context.set_fd_handler(ours)

    context.set_fd_handler(ours, reader, lambda: seen.append("writer"))
    turns(context)
    assert seen == [1]  # the writer was ready in the same turn, and is gone


def test_a_handler_may_remove_itself_and_close_its_fd(context, pair):
    ours, theirs = pair()
    theirs.send(b"x")

    def reader():
        ours.recv(1)
        context.set_fd_handler(ours)
        ours.close()

    context.set_fd_handler(ours, reader)
    run_until(context, lambda: ours.fileno() < 0)
    assert theirs.recv(1) == b""  # BlockingIOError would mean that the kernel still holds the file
    turns(context)


def test_a_removed_handler_that_was_ready_in_the_same_turn_does_not_run(context, pair):
    socks = [pair() for _ in range(4)]
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


def test_a_handler_that_closes_another_ready_fd_silences_it(context, pair):
    (a, peer_a), (b, peer_b) = pair(), pair()
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


def test_a_replaced_reader_does_not_run_any_more(context, pair):
    (a, peer_a), (b, peer_b) = pair(), pair()
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


def test_a_handler_set_in_a_callback_runs_in_a_later_turn(context, pair):
    (a, peer_a), (b, peer_b) = pair(), pair()
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


def test_an_exception_of_a_reader_comes_out_of_poll_and_the_other_readers_run(context, pair):
    socks = [pair() for _ in range(3)]
    ran = []
    for number, (ours, theirs) in enumerate(socks):
        theirs.send(b"x")
        context.set_fd_handler(ours, lambda ours=ours, number=number: ran.append((number, ours.recv(1))))
    bad, peer = pair()
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


def test_a_nested_poll_dispatches_other_handlers_once(context, pair):
    socks = [pair() for _ in range(5)]
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


def test_a_handler_queued_in_the_outer_turn_is_not_queued_again_by_a_nested_one(context, pair):
    # The nested turn sees the second fd ready again before the outer turn has come to it.
    (a, peer_a), (b, peer_b) = pair(), pair()
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


def test_a_nested_poll_in_a_reader_that_has_not_read_yet_reports_it_again(context, pair):
    # Level-triggered also there; it is for the reader to notice.
    ours, theirs = pair()
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


def test_a_handler_removed_by_a_nested_poll_does_not_run_in_the_outer_one(context, pair):
    (a, peer_a), (b, peer_b) = pair(), pair()
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


# -- arguments --


def test_an_object_with_fileno_or_a_number_both_do(context, pair):
    ours, theirs = pair()
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


def test_a_closed_socket_is_refused(context, pair):
    ours, _ = pair()
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


def test_a_failing_set_of_a_writer_keeps_the_reader(context, pair):
    ours, theirs = pair()
    seen = []
    context.set_fd_handler(ours, lambda: seen.append(ours.recv(1)))
    with pytest.raises(ValueError):
        context.set_fd_handler(-5, lambda: None, lambda: None)
    theirs.send(b"x")
    run_until(context, lambda: seen)
    context.set_fd_handler(ours)
