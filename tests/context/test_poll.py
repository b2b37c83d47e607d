"""poll() on every backend: what it returns, when it sleeps, who may call it, close, fork."""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
import time

import pytest

import aioqemu_loop
from aioqemu_loop import AioContext

from .helpers import in_child, in_thread, rescue, run_until, sleeps, thread_sleeps, turns, wait_for


def test_poll_without_blocking_never_sleeps(context):
    # Also with a far timer and a watched, silent fd.
    reader, writer = os.pipe()
    context.set_fd_handler(reader, lambda: None)
    context.timer_new(lambda: None).mod_ns(time.monotonic_ns() + 10**12)
    switches = voluntary_switches()
    assert [context.poll(False) for _ in range(200)] == [False] * 200
    # A sleep gives up the CPU; one or two may come from the page faults of a fresh process.
    assert voluntary_switches() - switches < 20
    context.set_fd_handler(reader)
    os.close(reader)
    os.close(writer)


def voluntary_switches():
    with open("/proc/thread-self/status") as status:
        return int(next(line for line in status if line.startswith("voluntary")).split()[1])


def test_a_blocking_poll_sleeps_until_there_is_something(context):
    assert sleeps(context)


def test_poll_tells_whether_anything_ran(context):
    assert context.poll(False) is False
    context.bh_schedule_oneshot(lambda: None)
    assert context.poll() is True
    context.timer_new(lambda: None).mod_ns(0)
    assert context.poll() is True
    assert context.poll(False) is False


def test_a_signal_ends_a_blocking_poll_and_its_handler_runs(context):
    me = threading.get_native_id()
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
    sent = []

    def send():
        # Again if it hit this thread outside of the system call, where nothing would end the sleep behind it.
        while not seen:
            wait_for(lambda: thread_sleeps(me))
            sent.append(time.monotonic())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            context_awake.wait(0.2)

    context_awake = threading.Event()
    thread = threading.Thread(target=send)
    try:
        with rescue(context) as needed:
            thread.start()
            while not seen and not needed.is_set():
                assert context.poll() is False or needed.is_set()
            context_awake.set()
            thread.join()
        assert not needed.is_set()
        assert seen
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_an_exception_of_a_signal_handler_comes_out_of_poll(context):
    raised = []

    def handler(*_):
        if not raised:  # a second one might come where nobody expects it
            raised.append(True)
            raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with rescue(context, 10) as needed, pytest.raises(KeyboardInterrupt):
            # Only now, because a busy machine may take long to come here.
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            while not needed.is_set():
                context.poll()
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert not needed.is_set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    in_thread(lambda: context.poll(False))  # not stuck in "running"


def test_two_threads_at_once_are_refused(context):
    errors = []

    def callback():
        for call in (
            lambda: context.poll(False),
            context.poll,
            context.close,
            lambda: context.set_fdmon("poll"),
        ):
            with pytest.raises(RuntimeError, match="another thread") as caught:
                in_thread(call)
            errors.append(caught.value)

    context.bh_schedule_oneshot(callback)
    context.poll()
    assert len(errors) == 4
    in_thread(lambda: context.poll(False))


def test_a_poll_during_the_sleep_of_another_thread_is_refused(context):
    me = threading.get_native_id()
    errors = []
    over = []

    def intrude():
        # The main thread may be on its way in or out; only a poll during its sleep must fail.
        while not errors:
            wait_for(lambda: thread_sleeps(me))
            try:
                context.poll(False)
            except RuntimeError as exc:
                errors.append(str(exc))
        context.bh_schedule_oneshot(lambda: over.append(True))

    thread = threading.Thread(target=intrude)
    with rescue(context, 20) as needed:
        thread.start()
        while not over and not needed.is_set():
            try:
                context.poll()
            except RuntimeError:  # the intruder was inside
                continue
        thread.join()
    assert not needed.is_set()
    assert "another thread" in errors[0]


# -- making and closing --


def test_fdmon_tells_the_name(context, fdmon):
    assert context.fdmon == fdmon


def test_a_wrong_name_is_told(no_leaks):
    with pytest.raises(ValueError, match="'kqueue'"):
        AioContext("kqueue")
    with pytest.raises(TypeError):
        AioContext(42)
    with pytest.raises(TypeError):
        AioContext(lambda: "not a monitor")


@pytest.mark.parametrize("bad, error", [(-1, ValueError), (2**63, ValueError), (1.5, TypeError), ("5", TypeError)])
def test_a_bad_poll_max_ns_is_told(bad, error, no_leaks):
    with pytest.raises(error, match="poll_max_ns"):
        AioContext("poll", bad)
    context = AioContext("poll", 1000)
    with pytest.raises(error, match="poll_max_ns"):
        context.set_poll_params(bad)
    assert context.poll_max_ns == 1000
    context.close()


def test_the_environment_is_the_default(monkeypatch, fdmon, no_leaks):
    monkeypatch.setenv("AIOQEMU_FDMON", fdmon)
    monkeypatch.setenv("AIOQEMU_POLL_MAX_NS", "12345")
    context = AioContext()
    assert (context.fdmon, context.poll_max_ns) == (fdmon, 12345)
    context.close()
    context = AioContext("epoll", 0)
    assert (context.fdmon, context.poll_max_ns) == ("epoll", 0)
    context.close()


@pytest.mark.parametrize("variable", ["AIOQEMU_FDMON", "AIOQEMU_POLL_MAX_NS"])
@pytest.mark.parametrize("bad", ["nonsense", "-3", "1e9"])
def test_a_bad_environment_is_told_by_its_name(monkeypatch, variable, bad, no_leaks):
    monkeypatch.setenv(variable, bad)
    with pytest.raises(ValueError, match=variable) as caught:
        AioContext()
    assert bad in str(caught.value)


def test_an_empty_environment_is_none(monkeypatch, no_leaks):
    monkeypatch.setenv("AIOQEMU_FDMON", "")
    monkeypatch.setenv("AIOQEMU_POLL_MAX_NS", "")
    context = AioContext()
    assert context.fdmon in aioqemu_loop.fdmons()
    context.close()


def test_after_close_everything_says_so(fdmon, no_leaks):
    context = AioContext(fdmon)
    reader, writer = os.pipe()
    context.set_fd_handler(reader, lambda: None)
    bh = context.bh_new(lambda: None)
    timer = context.timer_new(lambda: None)
    timer.mod_ns(0)
    context.poll(False)
    context.close()
    context.close()
    assert context.closed
    for call in (
        context.poll,
        context.notify,
        lambda: context.set_fd_handler(reader, lambda: None),
        lambda: context.set_fd_handler(reader),
        lambda: context.bh_new(lambda: None),
        lambda: context.bh_schedule_oneshot(lambda: None),
        lambda: context.timer_new(lambda: None),
        lambda: context.set_fdmon("poll"),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    bh.schedule()
    bh.delete()
    timer.delete()
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"  # close() leaves the fds of handlers open
    os.close(reader)
    os.close(writer)


def test_a_running_context_cannot_be_closed(context):
    errors = []

    def callback():
        with pytest.raises(RuntimeError, match="running"):
            context.close()
        errors.append(1)

    context.bh_schedule_oneshot(callback)
    context.poll()
    assert errors == [1]
    assert context.poll(False) is False


def test_close_frees_ports_that_were_watched(context):
    listener = socket.create_server(("127.0.0.1", 0))
    context.set_fd_handler(listener, lambda: None)
    turns(context)
    context.close()
    address = listener.getsockname()
    listener.close()
    socket.create_server(address).close()


def test_close_by_another_thread_frees_ports_soon(context):
    # On io_uring it cannot cancel what the polling thread armed; the kernel does, some ms after the close.
    listener = socket.create_server(("127.0.0.1", 0))
    context.set_fd_handler(listener, lambda: None)
    turns(context)
    in_thread(context.close)
    address = listener.getsockname()
    listener.close()

    def is_free():
        try:
            socket.create_server(address).close()
        except OSError:
            return False
        return True

    wait_for(is_free)


def test_a_thread_that_did_not_run_it_can_close_it_without_a_free_fd(fdmon, no_leaks):
    resource = pytest.importorskip("resource")
    context = AioContext(fdmon)
    in_thread(functools.partial(context.poll, False))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with pytest.raises(OSError):
            while True:
                taken.append(os.dup(2))
        context.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_contexts_that_come_and_go_leave_no_fds(fdmon, no_leaks):
    for _ in range(50):
        context = AioContext(fdmon)
        context.poll(False)
        context.close()
    AioContext(fdmon)  # not even closed


def test_two_contexts_do_not_see_each_other(context, fdmon):
    other = AioContext(fdmon)
    ran = []
    other.bh_schedule_oneshot(lambda: ran.append("other"))
    assert context.poll(False) is False
    context.bh_schedule_oneshot(lambda: ran.append("context"))
    context.poll()
    assert ran == ["context"]
    other.poll()
    assert ran == ["context", "other"]
    other.close()


# -- fork --


def test_a_forked_child_is_told_and_can_make_its_own(context, fdmon):
    reader, writer = os.pipe()
    seen = []
    context.set_fd_handler(reader, lambda: seen.append(os.read(reader, 1)))
    context.poll(False)

    def child():
        for call in (
            lambda: context.poll(False),
            context.poll,
            context.notify,
            lambda: context.set_fd_handler(reader),
            lambda: context.bh_schedule_oneshot(print),
        ):
            try:
                call()
            except RuntimeError as exc:
                assert "fork" in str(exc)
            else:
                return "no error"
        context.close()
        own = AioContext(fdmon)
        ran = []
        own.bh_schedule_oneshot(lambda: ran.append(1))
        own.set_fd_handler(reader, lambda: ran.append(os.read(reader, 1)))
        os.write(writer, b"c")
        run_until(own, lambda: len(ran) == 2)
        own.close()
        return ran

    assert in_child(child) == "[1, b'c']"
    os.write(writer, b"p")
    run_until(context, lambda: seen)
    assert seen == [b"p"]
    context.set_fd_handler(reader)
    os.close(reader)
    os.close(writer)


def test_a_child_forked_in_a_callback_cannot_go_on_polling(context):
    outcome = []
    context.bh_schedule_oneshot(lambda: outcome.append(in_child(lambda: context.poll(False))))
    context.poll()
    assert outcome[0].startswith("RuntimeError")


def test_the_child_of_a_context_that_waits_in_another_thread_does_not_disturb_it(context):
    ran = []
    ready = threading.Event()

    def run():
        ready.set()
        with rescue(context, 5) as needed:
            run_until(context, lambda: "end" in ran)
        return not needed.is_set()

    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(run()))
    thread.start()
    ready.wait()
    wait_for(lambda: thread_sleeps(thread.native_id))
    assert in_child(lambda: (context.close(), "closed")[1]) == "closed"
    context.bh_schedule_oneshot(lambda: ran.append("end"))
    thread.join()
    assert outcome == [True]
