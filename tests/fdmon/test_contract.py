"""The contract of FDMon: one set of tests for every backend, native or not, seen through an AioContext."""

from __future__ import annotations

import errno
import os
import pty
import resource
import select
import socket
import struct
import tempfile
import time

import pytest

import aioqemu_loop

from ..context.helpers import run_until, sleeps, turns

OUTSIDE_TOO = True

# -- level-triggered --


def test_unread_data_is_reported_again(pair, watch):
    ours, theirs = pair()
    reader = watch(ours, drain=False)
    assert reader.after() == ""
    theirs.send(b"abc")
    assert reader.after(5) == "rrrrr"
    ours.recv(1)
    assert reader.after(5) == "rrrrr"
    ours.recv(10)
    assert reader.after(5) == ""
    theirs.send(b"d")
    assert reader.after(1) == "r"


def test_a_writable_fd_is_reported_while_there_is_room(pair, watch):
    ours, theirs = pair()
    writer = watch(ours, read=False, write=True)
    assert writer.after(5) == "wwwww"
    while True:
        try:
            ours.send(bytes(65536))
        except BlockingIOError:
            break
    assert writer.after(5) == ""
    while True:
        try:
            theirs.recv(65536)
        except BlockingIOError:
            break
    assert writer.after(5) == "wwwww"


def test_all_of_many_ready_fds_are_reported_within_a_few_looks(context, pair, watch):
    # epoll gives 256 at a time, a ring with DEFER_TASKRUN 20 (the kernel's IO_LOCAL_TW_DEFAULT_MAX).
    pairs = [pair() for _ in range(100)]
    readers = [watch(ours) for ours, _ in pairs]
    turns(context, 1)
    for _, theirs in pairs:
        theirs.send(b"x")
    turns(context, 5)
    assert [reader.data for reader in readers] == [b"x"] * 100
    assert [reader.calls for reader in readers] == [["r"]] * 100


# -- changing what is wanted --


def test_reader_then_writer_then_both(pair, watch):
    ours, theirs = pair()
    theirs.send(b"x")
    both = watch(ours, drain=False)
    assert set(both.after()) == {"r"}
    both.set(False, True)
    assert set(both.after()) == {"w"}
    both.set(True, True)
    assert set(both.after(1)) == set("rw")
    both.set(True, False)
    assert set(both.after()) == {"r"}


def test_a_change_while_an_event_is_pending_counts_from_then_on(context, pair, watch):
    # The kernel has armed "readable", data is there, and nobody has looked yet when the wish changes.
    ours, theirs = pair()
    both = watch(ours, drain=False)
    turns(context)
    theirs.send(b"x")
    both.set(False, True)
    assert set(both.after()) == {"w"}
    both.set(True, False)
    assert set(both.after(1)) == {"r"}


def test_a_change_made_and_unmade_before_a_look_changes_nothing(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    turns(context)
    for _ in range(10):
        reader.set(True, True)
        reader.set(True, False)
    theirs.send(b"x")
    assert reader.after() == "r"


# -- removing --


def test_removed_with_an_event_in_flight_it_is_not_called(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours, drain=False)
    turns(context)
    theirs.send(b"x")
    reader.remove()
    assert reader.after() == ""
    reader.set(True, False)
    assert reader.after(2) == "rr"


def test_removed_before_the_first_look_it_is_not_called(pair, watch):
    ours, theirs = pair()
    theirs.send(b"x")
    reader = watch(ours, drain=False)
    reader.remove()
    assert reader.after() == ""


def test_adding_and_removing_many_times_leaves_one(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    for i in range(300):
        reader.remove()
        if i % 3 == 0:
            turns(context, 1)
        reader.set(True, False)
    theirs.send(b"x")
    assert reader.after() == "r"


def test_a_removed_and_closed_socket_lets_the_peer_know_at_once(context, pair, watch):
    ours, theirs = pair()
    reader = watch(ours)
    turns(context)
    reader.remove()
    ours.close()
    assert theirs.recv(1) == b""


# -- fd numbers are reused --


def test_a_file_under_a_reused_number_is_not_watched_by_the_removed_handler(context, pair, watch):
    (ours, _), (other, other_peer) = pair(), pair()
    number = ours.fileno()
    old = watch(ours, drain=False)
    turns(context)
    old.remove()
    os.dup2(other.fileno(), number)
    other_peer.send(b"x")
    assert old.after() == ""


def test_a_reused_number_can_be_registered_after_a_removal(context, pair, watch):
    (ours, theirs), (other, other_peer) = pair(), pair()
    number = ours.fileno()
    old = watch(ours, drain=False)
    turns(context)
    keep = os.dup(number)
    old.remove()
    os.dup2(other.fileno(), number)
    new = watch(number)
    theirs.send(b"old file")
    assert new.after() == ""
    other_peer.send(b"new file")
    assert new.after() == "r"
    assert new.data == b"new file"
    assert old.after() == ""
    os.close(keep)


def test_a_reused_number_can_be_registered_without_a_removal(context, pair, watch):
    (ours, _), (other, other_peer) = pair(), pair()
    number = ours.fileno()
    old = watch(ours, drain=False)
    turns(context)
    os.dup2(other.fileno(), number)
    new = watch(number)
    assert new.after() == ""
    other_peer.send(b"new file")
    assert new.after() == "r"
    assert new.data == b"new file"
    assert old.after() == ""


def test_an_old_file_kept_by_a_dup_does_not_call_the_handler_of_the_new_file(context, pair, watch):
    # Nobody removed the old registration. epoll still reports the old file, by the token it was added with.
    (ours, theirs), (other, other_peer) = pair(), pair()
    number = ours.fileno()
    watch(ours, drain=False)
    turns(context)
    with ours.dup():
        os.dup2(other.fileno(), number)
        new = watch(number, drain=False)
        theirs.send(b"to the old file")
        assert new.after(10) == ""
        assert sleeps(context)
        other_peer.send(b"x")
        assert new.after(2) == "rr"


def test_a_file_kept_by_a_dup_after_removal_and_close_does_not_make_it_spin(context, pair, watch):
    # Closed first, so that epoll_ctl cannot remove it: it reports for ever unless something is done.
    ours, theirs = pair()
    (other, other_peer) = pair()
    other_reader = watch(other)
    number = ours.fileno()
    reader = watch(number, drain=False)
    turns(context)
    keep = os.dup(number)
    os.close(number)
    reader.remove()
    theirs.send(b"x")
    assert reader.after(10) == ""
    assert sleeps(context)
    other_peer.send(b"x")
    assert other_reader.after() == "r"
    os.dup2(keep, number)  # the socket object closes this number
    os.close(keep)


# -- many --


def test_ten_thousand_fds_are_each_reported_once(context):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 10_100
    if hard < want:
        pytest.skip(f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, want), hard))
    counts = {}
    numbers = []

    def read(number):
        os.read(number, 8)
        counts[number] = counts.get(number, 0) + 1

    try:
        started = time.monotonic()
        for _ in range(10_000):
            number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if hasattr(os, "eventfd") else eventfd()
            numbers.append(number)
            context.set_fd_handler(number, lambda number=number: read(number))
        turns(context, 2)
        assert counts == {}
        for number in numbers:
            os.write(number, struct.pack("=Q", 1))
        run_until(context, lambda: len(counts) == len(numbers), 30)
        turns(context)
        assert set(counts.values()) == {1}
        for number in numbers:
            context.set_fd_handler(number)
        assert time.monotonic() - started < 20
    finally:
        for number in numbers:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def eventfd():
    """For a Python that was built without os.eventfd."""
    return os.dup(aioqemu_loop.EventNotifier().fileno())


# -- hang-ups and errors --


def test_a_half_closed_socket_is_readable_and_still_writable(pair, watch):
    ours, theirs = pair()
    both = watch(ours, write=True)
    theirs.shutdown(socket.SHUT_WR)
    assert set(both.after(2)) == set("rw")
    assert both.data == b""
    ours.send(b"x")
    assert theirs.recv(1) == b"x"


def test_a_writer_without_room_sleeps_while_its_peer_is_half_closed(context, pair, watch):
    # io_uring always reports POLLRDHUP, which nobody asked for here.
    ours, theirs = pair()
    writer = watch(ours, read=False, write=True)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        theirs.shutdown(socket.SHUT_WR)
        assert writer.after() == ""
        assert sleeps(context)
        with pytest.raises(BlockingIOError):
            while True:
                theirs.recv(65536)
        assert writer.after(3) == "www"
    ours.send(b"x")
    writer.set(True, False)
    assert writer.after(1) == "r"


def test_a_hang_up_is_told_to_a_reader_and_to_a_writer(context, pair, watch):
    for read, write, expected in ((True, False, "r"), (False, True, "w"), (True, True, "rw")):
        ours, theirs = pair()
        item = watch(ours, read=read, write=write)
        turns(context, 1)
        theirs.close()
        assert set(item.after(2)) == set(expected)
        item.remove()


def test_the_closed_reading_end_of_a_pipe_is_told_to_the_writer(context, watch):
    # POLLERR alone: the pipe is full, so POLLOUT is not the reason.
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    item = watch(writer, read=False, write=True, drain=False)
    assert item.after() == ""
    os.close(reader)
    assert set(item.after()) == {"w"}
    item.set(True, True)
    assert set(item.after()) == set("rw")
    item.remove()
    os.close(writer)


def test_a_reset_connection_is_told_to_both(context, watch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    item = watch(ours, write=True, drain=False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert set(item.after()) == set("rw")
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    item.remove()
    ours.close()


# -- files --


@pytest.mark.parametrize("kind", ["regular file", "directory", "/dev/null"])
def test_what_cannot_be_polled_is_refused_or_always_ready(context, watch, fdmon, kind):
    with tempfile.TemporaryDirectory() as directory:
        paths = {"regular file": os.path.join(directory, "file"), "directory": directory, "/dev/null": kind}
        if kind == "regular file":
            open(paths[kind], "w").close()
        fd = os.open(paths[kind], os.O_RDONLY)
        if fdmon in ("poll", "python"):
            item = watch(fd, drain=False)
            assert item.after(3) == "rrr"
            item.remove()
        else:
            with pytest.raises(PermissionError):
                watch(fd)
            assert sleeps(context)
        os.close(fd)


def test_a_terminal_is_watched(context, watch):
    master, slave = pty.openpty()
    item = watch(master)
    assert item.after() == ""
    os.write(slave, b"hello\n")
    run_until(context, lambda: item.data)
    assert item.data == b"hello\r\n"
    os.write(master, b"line\n")  # ready for everything, as is what cannot be polled
    side = watch(slave)
    run_until(context, lambda: side.data)
    assert side.data == b"line\n"
    item.remove()
    side.remove()
    os.close(master)
    os.close(slave)


def test_an_epoll_set_is_watched(context, watch, pair):
    ours, theirs = pair()
    with select.epoll() as inner:
        inner.register(ours, select.EPOLLIN)
        item = watch(inner.fileno(), drain=False)
        assert item.after() == ""
        theirs.send(b"x")
        assert set(item.after()) == {"r"}
        item.remove()


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "registered before"])
def test_a_closed_fd_is_refused_at_once(context, fresh):
    reader, writer = os.pipe()
    os.close(writer)
    if not fresh:
        context.set_fd_handler(reader, lambda: None)
        turns(context, 1)
    os.close(reader)
    with pytest.raises(OSError) as caught:
        context.set_fd_handler(reader, lambda: None, lambda: None)
    assert caught.value.errno == errno.EBADF
    context.set_fd_handler(reader)


@pytest.mark.parametrize("kind", ["regular file", "directory", "pipe", "socket"])
def test_a_file_opened_for_its_path_only_is_refused_at_once(context, tmp_path, kind):
    path = tmp_path / "it"
    with socket.socket(socket.AF_UNIX) as sock:
        if kind == "socket":
            sock.bind(str(path))
        else:
            {"regular file": path.touch, "directory": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    fd = os.open(path, os.O_PATH)
    with pytest.raises(OSError) as caught:
        context.set_fd_handler(fd, lambda: None)
    assert caught.value.errno == errno.EBADF
    assert sleeps(context)
    os.close(fd)


def test_an_fd_closed_behind_its_back_is_told_at_most_once_and_does_not_spin(context, pair, watch):
    # poll and io_uring see that the number is closed (POLLNVAL); for epoll the file has just left.
    ours, _ = pair()
    other, other_peer = pair()
    other_reader = watch(other)
    calls = []
    number = ours.fileno()
    context.set_fd_handler(number, lambda: calls.append("r"), lambda: calls.append("w"))
    os.close(number)
    turns(context, 10)
    assert calls.count("r") <= 1
    assert sleeps(context)
    other_peer.send(b"x")
    assert other_reader.after() == "r"
    context.set_fd_handler(number)
    os.dup2(other.fileno(), number)  # the socket object closes this number
