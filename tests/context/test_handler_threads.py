"""fd handlers on every backend, set and removed by other threads; when a removed one is let go."""

from __future__ import annotations

import socket
import threading

import aioqemu_loop

from .helpers import in_thread, rebind, rescue, run_until, thread_sleeps, turns, wait_for


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


def test_a_handler_set_by_a_thread_during_a_wait_is_called(context, pair):
    ours, theirs = pair()
    theirs.send(b"x")
    seen = []
    assert while_it_sleeps(
        context, lambda: context.set_fd_handler(ours, lambda: seen.append(ours.recv(1))), lambda: seen
    )
    assert seen == [b"x"]
    context.set_fd_handler(ours)


def test_a_writer_added_by_a_thread_during_a_wait_is_called_and_the_reader_kept(context, pair):
    ours, theirs = pair()
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


def test_a_handler_removed_by_a_thread_during_a_wait_is_not_called(context, pair):
    ours, theirs = pair()
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


def test_many_threads_set_and_remove_while_the_context_runs(context, pair):
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
    # Idle, but armed by this thread's last poll: on io_uring only this thread can cancel in that ring, so the
    # remover waits for the next poll.
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


def test_a_waiting_removal_ends_when_the_context_stops_running(context, pair):
    # The remover asks while poll() is in a callback; nobody calls poll() again.
    ours, _ = pair()
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


def test_a_remover_with_the_id_of_a_dead_owner_is_no_owner(context, pair):
    # Thread ids are reused at once: the thread that removes may look like the one that polled and ended.
    ours, theirs = pair()
    seen = []
    context.set_fd_handler(ours, lambda: seen.append(ours.recv(1)))
    other, _ = pair()
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
