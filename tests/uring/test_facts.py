"""Facts about io_uring that the backend must respect (numbers as in the design's list of measured facts)."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import socket
import threading
import time

import pytest

import aioqemu_loop
from aioqemu_loop import AioContext
from aioqemu_loop.context.fdmons import BACKENDS

from ..context.helpers import in_child, in_thread, rebind, rescue, run_until, sleeps, turns, wait_for
from ..fdmon.tracing import names, strace

IOUringFDMon = BACKENDS["io_uring"]

R_DISABLED = 1 << 6
SUBMIT_ALL = 1 << 7
COOP_TASKRUN = 1 << 8
TASKRUN_FLAG = 1 << 9
SINGLE_ISSUER = 1 << 12
DEFER_TASKRUN = 1 << 13
FEAT_NO_IOWAIT = 1 << 17
KERNEL = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


# -- 1: set-up flags --


def test_1_completions_are_deferred_and_announced(no_leaks):
    ring = IOUringFDMon().ring
    if KERNEL >= (6, 1):
        assert ring.setup_flags == SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG | R_DISABLED | SUBMIT_ALL
    elif KERNEL >= (5, 19):
        assert ring.setup_flags == COOP_TASKRUN | TASKRUN_FLAG | R_DISABLED
    ring.close()


def test_1_the_thread_that_makes_the_ring_need_not_be_the_one_that_runs_it(no_leaks):
    context = in_thread(lambda: AioContext("io_uring"))
    ran = []
    context.bh_schedule_oneshot(lambda: ran.append(1))
    context.poll()
    assert ran == [1]
    context.close()


def test_1_a_small_ring_has_four_completions_per_submission(no_leaks):
    ring = IOUringFDMon().ring
    assert (ring.sq_entries, ring.cq_entries) == (64, 256)
    ring.close()
    assert ring.fd == -1
    ring.close()
    ring = type(ring)(8)
    assert (ring.sq_entries, ring.cq_entries) == (8, 32)
    ring.close()


# -- 4: one thread owns the ring --


def test_4_a_loop_runs_in_two_threads_in_turn(loop, pair):
    ours, theirs = pair
    got = []
    loop.add_reader(ours, lambda: got.append(ours.recv(10)))

    async def one_more():
        before = len(got)
        theirs.send(b"x")
        while len(got) == before:
            await asyncio.sleep(0.001)

    for _ in range(4):
        loop.run_until_complete(one_more())
        in_thread(lambda: loop.run_until_complete(one_more()))
    assert got == [b"x"] * 8
    loop.remove_reader(ours)


def test_4_an_owner_that_ends_with_polls_armed_takes_nothing_along(context, monitor, pair):
    ours, theirs = pair
    got = []
    context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
    in_thread(lambda: turns(context))  # armed there, and gone
    theirs.send(b"x")
    with rescue(context) as needed:
        run_until(context, lambda: got)
    assert not needed.is_set()
    theirs.send(b"y")
    in_thread(lambda: turns(context))
    assert got == [b"x", b"y"]
    context.set_fd_handler(ours)


def test_4_leaving_a_run_leaves_nothing_armed(loop, pair):
    # What is still armed keeps its file open: the peer would see no end after the close.
    ours, theirs = pair
    loop.add_reader(ours, lambda: None)
    in_thread(lambda: loop.run_until_complete(asyncio.sleep(0.01)))
    loop.remove_reader(ours)
    ours.close()
    assert theirs.recv(1) == b""


def test_4_a_loop_may_be_closed_by_another_thread(no_leaks, pair):
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    ours, theirs = pair
    loop.add_reader(ours, lambda: None)
    loop.run_until_complete(asyncio.sleep(0.01))
    in_thread(loop.close)
    ours.close()
    assert theirs.recv(1) == b""


def in_thread_with_id(ident, function):
    """Run it in a thread that got the id of one that has ended, as most new threads do."""

    def run():
        if threading.get_ident() != ident:
            return False
        function()
        return True

    for _ in range(1000):
        if in_thread(run):
            return
    raise LookupError("this libc does not reuse thread ids")


@pytest.mark.parametrize("what", ["poll", "close", "set_fdmon", "remove"])
@pytest.mark.parametrize("armed", [True, False], ids=["armed before", "armed then"])
def test_4_a_thread_with_the_id_of_a_dead_owner_is_no_owner(no_leaks, what, armed):
    # 200 registrations are more than the submission queue holds (64), so that the ring is found to be nobody's
    # in the middle of filling it. In a child, because it may crash.
    def child():
        context = AioContext("io_uring")
        pipes = [os.pipe() for _ in range(200)]
        got = []

        def watch():
            for reader, _ in pipes:
                context.set_fd_handler(reader, lambda reader=reader: got.append(os.read(reader, 1)))

        def first():
            context.poll(False)
            return threading.get_ident()

        def second():
            if what == "poll":
                turns(context, 30)
            elif what == "close":
                context.close()
            elif what == "set_fdmon":
                context.set_fdmon("io_uring")
            else:
                context.set_fd_handler(pipes[0][0])
                pipes.pop(0)

        if armed:
            watch()
        ident = in_thread(first)
        if not armed:
            watch()
        for _, writer in pipes:
            os.write(writer, b"x")
        in_thread_with_id(ident, second)
        if what != "close":
            turns(context, 30)
            assert len(got) == len(pipes), len(got)
        return "ok"

    assert in_child(child) == "ok"


# -- 8: iowait --


def test_8_an_armed_sleep_is_not_counted_as_waiting_for_a_disk(no_leaks):
    ring = IOUringFDMon().ring
    features = ring.features
    ring.close()
    if not features & FEAT_NO_IOWAIT:
        pytest.skip("this kernel has no IORING_ENTER_NO_IOWAIT")
    lines = strace(
        """
        import os, time, aioqemu_loop

        context = aioqemu_loop.AioContext("io_uring")
        reader, writer = os.pipe()
        context.set_fd_handler(reader, print)
        timer = context.timer_new(lambda: None)
        context.poll(False)
        timer.mod_ns(time.monotonic_ns() + 50_000_000)
        os.write(2, b"BEGIN")
        while timer.pending():
            context.poll()
        os.write(2, b"END")
        """
    )
    sleeps_made = [line for line in lines if names([line]) == ["io_uring_enter"]]
    assert sleeps_made
    # strace knows the flag's name or shows its number.
    assert all(re.search(r"\|(0x80|IORING_ENTER_NO_IOWAIT)\b", line) for line in sleeps_made), sleeps_made


# -- 9: closing a ring interrupts other waits --


@pytest.mark.parametrize("backend", ["io_uring", "epoll", "poll"])
def test_9_the_end_of_a_ring_makes_no_timer_early(backend, no_leaks):
    context = AioContext(backend)
    for _ in range(5):
        IOUringFDMon().close()
        due = time.monotonic_ns() + 30_000_000  # the kernel's work comes 11 to 15 ms after the close
        fired = []
        timer = context.timer_new(lambda fired=fired: fired.append(time.monotonic_ns()))
        timer.mod_ns(due)
        while not fired:
            context.poll()
        assert fired[0] >= due
    context.close()


# -- 10: overflow --


def test_10_more_completions_than_the_queue_holds_all_come_out(context, monitor):
    # 1,000 fds become ready between two looks; the completion queue has room for 256.
    pipes = [os.pipe() for _ in range(1000)]
    counts = dict.fromkeys(range(1000), 0)

    def reader(i):
        os.read(pipes[i][0], 1)
        counts[i] += 1

    for i, (fd, _) in enumerate(pipes):
        context.set_fd_handler(fd, lambda i=i: reader(i))
    turns(context)
    for _ in range(3):
        for _, writer in pipes:
            os.write(writer, b"x")
        expected = max(counts.values()) + 1
        run_until(context, lambda expected=expected: min(counts.values()) == expected)
        turns(context)
    assert set(counts.values()) == {3}
    for fds in pipes:
        context.set_fd_handler(fds[0])
        for fd in fds:
            os.close(fd)


def test_10_overflow_while_all_is_cancelled(context, monitor):
    # Cancelling 1,000 polls is 1,000 completions at once; none of the silent ones may be taken for an event.
    pipes = [os.pipe() for _ in range(1000)]
    calls = []
    for fd, _ in pipes:
        context.set_fd_handler(fd, lambda: calls.append(1))
    turns(context)
    context.set_fdmon("poll")
    context.set_fdmon("io_uring")
    turns(context)
    assert calls == []
    for fds in pipes:
        context.set_fd_handler(fds[0])
        for fd in fds:
            os.close(fd)
    assert sleeps(context)


def test_a_thousand_registrations_in_one_turn_do_not_fit_the_queue_and_all_work(context, monitor):
    assert monitor.ring.sq_entries < 1000
    events = []
    seen = set()

    def make(notifier):
        def ready(_):
            notifier.test_and_clear()
            seen.add(notifier.fd)

        return ready

    for _ in range(1000):
        notifier = aioqemu_loop.EventNotifier()
        notifier.set()
        context.set_event_notifier(notifier, make(notifier))
        events.append(notifier)
    run_until(context, lambda: len(seen) == 1000)
    for notifier in events:
        context.set_event_notifier(notifier)
        notifier.close()


# -- 11: level-triggered --


def test_11_a_partial_read_is_followed_by_another_event(context, pair):
    ours, theirs = pair
    got = []
    context.set_fd_handler(ours, lambda: got.append(ours.recv(1)))
    turns(context)
    theirs.send(b"abc")
    turns(context)
    assert got == [b"a", b"b", b"c"]
    context.set_fd_handler(ours)


# -- 12: files that cannot be polled, and closed ones --


def test_12_a_file_that_would_always_be_ready_is_refused(context, tmp_path):
    (tmp_path / "file").write_text("x")
    with open(tmp_path / "file") as file:
        with pytest.raises(PermissionError):
            context.set_fd_handler(file, lambda: None)
        assert sleeps(context)


def test_12_an_fd_closed_before_it_was_submitted_is_told_once(context):
    reader, writer = os.pipe()
    calls = []
    context.set_fd_handler(reader, lambda: calls.append(1))
    os.close(reader)
    os.close(writer)
    turns(context, 10)
    assert calls == [1]
    assert sleeps(context)
    context.set_fd_handler(reader)


# -- 14: closing --


def test_14_a_listener_that_was_removed_frees_its_port_at_once(context):
    for _ in range(20):
        listener = socket.create_server(("127.0.0.1", 0))
        context.set_fd_handler(listener, lambda: None)
        turns(context, 2)
        context.set_fd_handler(listener)
        rebind(listener)


def test_14_a_server_that_was_closed_frees_its_port_at_once(loop):
    async def main():
        for _ in range(10):
            server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            await asyncio.sleep(0.001)
            server.close()
            socket.create_server(address).close()

    loop.run_until_complete(main())


def test_14_a_connection_to_a_closed_server_is_refused(loop):
    async def main():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.sleep(0.001)
        server.close()
        with pytest.raises(ConnectionRefusedError), socket.socket() as client:
            client.connect(address)

    loop.run_until_complete(main())


def test_14_remove_reader_outside_of_a_run_lets_go(loop, pair):
    ours, theirs = pair
    loop.add_reader(ours, lambda: None)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.remove_reader(ours)
    ours.close()
    assert theirs.recv(1) == b""


def test_14_closing_the_loop_lets_go(no_leaks, pair):
    ours, theirs = pair
    loop = aioqemu_loop.new_event_loop(fdmon="io_uring")
    loop.add_reader(ours, lambda: None)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    ours.close()
    assert theirs.recv(1) == b""


def test_14_an_aborted_and_a_closed_transport_send_their_end_at_once(loop):
    async def main():
        for how in ("close", "abort"):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            _, writer = await asyncio.open_connection(sock=ours)
            await asyncio.sleep(0.001)
            getattr(writer.transport, how)()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert theirs.recv(1) == b""
            theirs.close()

    loop.run_until_complete(main())


def test_14_a_removal_by_a_second_poller_frees_the_port_soon(context):
    # What the first one armed no other thread can cancel; the kernel does, some ms after that ring was closed.
    listener = socket.create_server(("127.0.0.1", 0))
    context.set_fd_handler(listener, lambda: None)
    context.poll(False)

    def second():
        context.poll(False)
        context.set_fd_handler(listener, wait=True)

    in_thread(second)
    address = listener.getsockname()
    listener.close()

    def is_free():
        try:
            socket.create_server(address).close()
        except OSError:
            return False
        return True

    wait_for(is_free)


def test_two_rings_in_two_threads_do_not_disturb_each_other(no_leaks):
    def work():
        async def main():
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for i in range(200):
                writer.write(b"%d\n" % i)
                assert await reader.readline() == b"%d\n" % i
            writer.close()
            await writer.wait_closed()
            server.close()
            done.append(1)

        async def echo(reader, writer):
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        aioqemu_loop.run(main(), fdmon="io_uring")

    done = []
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: not any(thread.is_alive() for thread in threads), 30)
    assert len(done) == 3
