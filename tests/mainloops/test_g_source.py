"""GSource: the four steps, who may take them, and what wakes an outside loop that sleeps between them."""

from __future__ import annotations

import os
import select
import threading
import time

import pytest

import aioqemu_loop

from ..context.helpers import in_child, in_thread, thread_sleeps, wait_for
from .guest import drive


def polled(source, timeout_ms=0):
    """What the outside loop's poll finds."""
    poller = select.poll()
    for fd, events in source.poll_fds():
        poller.register(fd, events)
    return poller.poll(timeout_ms)


class TestSteps:
    def test_prepare_tells_how_long_the_outside_loop_may_sleep(self, guest_context, source):
        drive(source, 0)
        assert source.prepare() is None
        timer = guest_context.timer_new(lambda: None)
        timer.mod_ns(time.monotonic_ns() + 10**9)
        assert source.prepare() == 0  # the change itself is something to look at
        drive(source, 0)
        assert 0 < source.prepare() <= 10**9
        timer.mod_ns(time.monotonic_ns())
        drive(source, 0)
        assert source.prepare() is None
        guest_context.bh_schedule_oneshot(lambda: None)
        assert source.prepare() == 0

    def test_a_timer_runs_in_dispatch_and_never_early(self, guest_context, source):
        ran = []
        due = time.monotonic_ns() + 20_000_000
        guest_context.timer_new(lambda: ran.append(time.monotonic_ns())).mod_ns(due)
        while not ran:
            drive(source)
        assert ran[0] >= due

    def test_the_list_is_the_same_object_until_something_changes(self, guest_context, source, pair):
        source.prepare()
        fds = source.poll_fds()
        assert source.poll_fds() is fds
        ours, _ = pair()
        guest_context.set_fd_handler(ours, lambda: None)
        source.prepare()
        changed = source.poll_fds()
        assert (changed is not fds) == (guest_context.fdmon == "poll")
        guest_context.set_fdmon("poll")
        assert (ours.fileno(), select.POLLIN) in source.poll_fds()

    def test_check_looks_at_its_own_fds_only(self, guest_context, source, pair):
        ours, theirs = pair()
        theirs.send(b"x")
        drive(source, 0)
        source.prepare()
        assert source.check([(ours.fileno(), select.POLLIN)]) is False
        assert source.check([]) is False

    def test_somebody_elses_entry_for_the_same_fd_hides_nothing(self, guest_context, source, pair):
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
        drive(source, 0)
        theirs.send(b"x")
        source.prepare()
        ready = polled(source, 1000)
        assert source.check([*ready, *((fd, select.POLLOUT) for fd, _ in ready)])
        source.dispatch()
        assert got == [b"x"]
        guest_context.set_fd_handler(ours)

    def test_check_takes_a_list(self, source):
        source.prepare()
        with pytest.raises(TypeError):
            source.check(None)

    def test_an_fd_is_reported_while_it_is_ready(self, guest_context, source, pair):
        ours, theirs = pair()
        calls = []
        guest_context.set_fd_handler(ours, lambda: calls.append(1))
        for _ in range(3):
            drive(source, 0)
        assert calls == []
        theirs.send(b"x")
        for _ in range(3):
            drive(source, 0)
        assert calls == [1, 1, 1]
        ours.recv(1)
        drive(source, 0)
        drive(source, 0)
        assert calls == [1, 1, 1]
        guest_context.set_fd_handler(ours)

    def test_a_handler_that_was_removed_between_check_and_dispatch_is_not_called(self, guest_context, source, pair):
        ours, theirs = pair()
        calls = []
        guest_context.set_fd_handler(ours, lambda: calls.append(1))
        drive(source, 0)
        theirs.send(b"x")
        source.prepare()
        assert source.check(polled(source, 1000))
        guest_context.set_fd_handler(ours)
        source.dispatch()
        drive(source, 0)
        assert calls == []

    def test_a_nested_poll_between_check_and_dispatch_doubles_nothing(self, guest_context, source, pair):
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
        drive(source, 0)
        theirs.send(b"x")
        source.prepare()
        assert source.check(polled(source, 1000))
        aioqemu_loop.AioContext.poll(guest_context, False)
        source.dispatch()
        drive(source, 0)
        assert got == [b"x"]
        guest_context.set_fd_handler(ours)

    def test_work_without_end_leaves_the_outside_loop_its_turn(self, guest_context, source):
        def again():
            guest_context.bh_schedule_oneshot(again)

        again()
        source.prepare()
        started = time.monotonic()
        source.dispatch()
        assert time.monotonic() - started < 1
        assert source.prepare() == 0

    def test_exceptions_come_out_and_the_rest_runs_next_time(self, guest_context, source):
        ran = []
        guest_context.bh_schedule_oneshot(lambda: 1 / 0)
        guest_context.bh_schedule_oneshot(lambda: ran.append(1))
        source.prepare()
        with pytest.raises(ZeroDivisionError):
            source.dispatch()
        drive(source, 0)
        assert ran == [1]


class TestWaking:
    """The outside loop really sleeps in poll(2): what happens then must end that."""

    def sleeping(self, source, act, seconds=10):
        """Calls act() once this thread sleeps in an iteration; how long that took."""
        main = threading.get_native_id()

        def later():
            wait_for(lambda: thread_sleeps(main))
            time.sleep(0.06)  # well inside the sleep: the fact tested shows with old sleepers only
            act()

        thread = threading.Thread(target=later)
        thread.start()
        started = time.monotonic()
        drive(source, int(seconds * 1e9))
        thread.join()
        took = time.monotonic() - started
        assert took < seconds / 2, "the outside loop slept on"
        assert took >= 0.05, "the outside loop did not sleep"

    def test_an_fd_that_becomes_ready(self, guest_context, source, pair):
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
        for _ in range(3):
            drive(source, 0)
        for _ in range(3):
            self.sleeping(source, lambda: theirs.send(b"x"))
            drive(source, 0)
        assert got == [b"x"] * 3
        guest_context.set_fd_handler(ours)

    def test_a_bottom_half_of_another_thread_again_and_again(self, guest_context, source):
        # Linux 6.18 signals a ring's eventfd only once for events that come by another eventfd.
        ran = []
        drive(source, 0)
        for _ in range(3):
            self.sleeping(source, lambda: guest_context.bh_schedule_oneshot(lambda: ran.append(1)))
            drive(source, 0)
        assert ran == [1, 1, 1]

    def test_an_event_notifier_again_and_again(self, guest_context, source):
        notifier = aioqemu_loop.EventNotifier()
        ran = []
        guest_context.set_event_notifier(notifier, lambda n: ran.append(n.test_and_clear()))
        for _ in range(3):
            drive(source, 0)
        for _ in range(3):
            self.sleeping(source, notifier.set)
            drive(source, 0)
        assert ran == [True] * 3
        guest_context.set_event_notifier(notifier)
        notifier.close()

    def test_a_handler_set_by_another_thread(self, guest_context, source, pair):
        ours, theirs = pair()
        theirs.send(b"x")
        got = []
        drive(source, 0)
        self.sleeping(source, lambda: guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(10))))
        for _ in range(3):
            drive(source, 0)
        assert got == [b"x"]
        guest_context.set_fd_handler(ours)

    def test_notify(self, guest_context, source):
        drive(source, 0)
        self.sleeping(source, guest_context.notify)

    @pytest.mark.parametrize("what", ["bottom half", "timer", "handler"])
    def test_what_the_outside_loop_itself_does_after_prepare(self, guest_context, source, pair, what):
        # As when another source's callback runs late in an iteration, or a toolkit asks rarely.
        ours, theirs = pair()
        theirs.send(b"x")
        ran = []
        drive(source, 0)
        assert source.prepare() is None
        fds = source.poll_fds()
        if what == "bottom half":
            guest_context.bh_schedule_oneshot(lambda: ran.append(1))
        elif what == "timer":
            guest_context.timer_new(lambda: ran.append(1)).mod_ns(time.monotonic_ns())
        else:
            guest_context.set_fd_handler(ours, lambda: ran.append(ours.recv(1)))
        poller = select.poll()
        for fd, events in fds:
            poller.register(fd, events)
        ready = poller.poll(5000)
        assert ready and source.check(ready)
        source.dispatch()
        for _ in range(2):
            drive(source, 0)
        assert len(ran) == 1
        guest_context.set_fd_handler(ours)

    def test_where_check_was_left_out_nothing_is_lost(self, guest_context, source, pair):
        # GLib does that to a source while one of a higher priority is ready.
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
        drive(source, 0)
        theirs.send(b"x")
        guest_context.bh_schedule_oneshot(lambda: got.append("bh"))
        for _ in range(3):
            source.prepare()
            polled(source)
        for _ in range(3):
            drive(source, 0)
        assert sorted(map(str, got)) == ["b'x'", "bh"]
        guest_context.set_fd_handler(ours)

    def test_no_wake_up_is_lost(self, guest_context, source):
        count = 20_000
        ran = []

        def produce():
            for _ in range(count):
                guest_context.bh_schedule_oneshot(lambda: ran.append(1))

        threads = [threading.Thread(target=produce) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(ran) < 2 * count:
            begin = time.monotonic()
            drive(
                source, 10 * 10**9
            )  # a ring may wake it up for nothing: it is signalled late where an eventfd is behind
            assert time.monotonic() - begin < 9, "slept for 10 s with work queued"
        for thread in threads:
            thread.join()

    def test_a_nested_poll_between_prepare_and_check_leaves_it_asleep(self, guest_context, source):
        # A callback of the outside loop may call poll().
        ran = []
        drive(source, 0)
        assert source.prepare() is None
        aioqemu_loop.AioContext.poll(guest_context, False)
        in_thread(lambda: guest_context.bh_schedule_oneshot(lambda: ran.append(1)))
        ready = polled(source, 5000)
        assert ready and source.check(ready)
        source.dispatch()
        assert ran == [1]

    def test_what_was_read_by_the_way_wakes_it_all_the_same(self, guest_context, source, pair):
        # Removing a handler settles it, which collects events, the wake-up among them.
        ours, _ = pair()
        guest_context.set_fd_handler(ours, lambda: None)
        drive(source, 0)
        source.prepare()
        ran = []
        guest_context.bh_schedule_oneshot(lambda: ran.append(1))
        guest_context.set_fd_handler(ours)
        in_thread(lambda: guest_context.bh_schedule_oneshot(lambda: ran.append(2)))
        ready = polled(source, 5000)
        assert ready and source.check(ready)
        source.dispatch()
        assert ran == [1, 2]

    def test_a_wake_up_of_an_earlier_poll_makes_it_spin_not_once(self, guest_context):
        # poll() leaves the eventfd as it is where events are edge-triggered.
        main = threading.get_native_id()

        def notify():
            wait_for(lambda: thread_sleeps(main))
            guest_context.notify()

        thread = threading.Thread(target=notify)
        thread.start()
        aioqemu_loop.AioContext.poll(guest_context)
        thread.join()
        with guest_context.get_g_source() as source:
            for _ in range(3):
                drive(source, 0)
            assert source.prepare() is None
            assert polled(source) == []

    def test_an_fd_that_was_closed_behind_its_back_is_told_once(self, guest_context, source):
        # An eventfd is polled by the outside loop itself, also where the ring holds the file.
        fd = os.eventfd(0) if hasattr(os, "eventfd") else os.open("/dev/tty", os.O_RDWR)
        calls = []
        guest_context.set_fd_handler(fd, lambda: calls.append(1))
        for _ in range(2):
            drive(source, 0)
        os.close(fd)
        for _ in range(3):
            drive(source, 0)
        if guest_context.fdmon not in ("epoll", "liburing"):  # the one forgets a closed file, the other one holds it
            assert calls == [1]
        source.prepare()
        assert polled(source) == []
        guest_context.set_fd_handler(fd)


class TestHolding:
    def test_it_is_one_at_a_time(self, guest_context, source):
        with pytest.raises(RuntimeError, match="another GSource"):
            guest_context.get_g_source()
        drive(source, 0)

    def test_a_context_that_runs_has_none(self, guest_context):
        seen = []

        def callback():
            with pytest.raises(RuntimeError, match="running"):
                guest_context.get_g_source()
            with pytest.raises(RuntimeError, match="runs"):
                guest_context.use_g_source()
            seen.append(1)

        guest_context.bh_schedule_oneshot(callback)
        aioqemu_loop.AioContext.poll(guest_context, False)
        assert seen == [1]

    def test_after_destroy_the_context_can_be_polled_and_held_again(self, guest_context):
        ran = []
        first = guest_context.get_g_source()
        with pytest.raises(RuntimeError, match="running"):
            aioqemu_loop.AioContext.close(guest_context)
        first.destroy()
        first.destroy()
        for step in (first.prepare, first.poll_fds, lambda: first.check([]), first.dispatch):
            with pytest.raises(RuntimeError, match="destroyed"):
                step()
        guest_context.bh_schedule_oneshot(lambda: ran.append(1))
        assert aioqemu_loop.AioContext.poll(guest_context, False)
        with guest_context.get_g_source() as second:
            guest_context.bh_schedule_oneshot(lambda: ran.append(2))
            drive(second, 0)
        assert ran == [1, 2]

    def test_the_last_reference_gives_it_back(self, guest_context):
        source = guest_context.get_g_source()
        drive(source, 0)
        del source
        guest_context.get_g_source().destroy()

    def test_destroyed_by_a_callback_it_ends_after_dispatch(self, guest_context):
        source = guest_context.get_g_source()
        ran = []

        def callback():
            source.destroy()
            ran.append(1)

        guest_context.bh_schedule_oneshot(callback)
        guest_context.bh_schedule_oneshot(lambda: ran.append(2))
        drive(source, 0)
        assert ran == [1, 2]
        with pytest.raises(RuntimeError, match="destroyed"):
            source.prepare()
        guest_context.get_g_source().destroy()

    def test_destroyed_by_a_callback_of_a_nested_poll_it_ends_there(self, guest_context):
        source = guest_context.get_g_source()
        guest_context.bh_schedule_oneshot(source.destroy)
        aioqemu_loop.AioContext.poll(guest_context, False)
        with pytest.raises(RuntimeError, match="destroyed"):
            source.prepare()
        guest_context.get_g_source().destroy()

    def test_another_thread_goes_on(self, guest_context, source, pair):
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append((threading.get_ident(), ours.recv(1))))
        for i in range(6):
            theirs.send(b"%d" % i)
            while len(got) <= i:
                if i % 2:
                    in_thread(lambda: drive(source, 0))
                else:
                    drive(source, 0)
        assert [data for _, data in got] == [b"%d" % i for i in range(6)]
        assert len({thread for thread, _ in got[::2]}) == 1
        guest_context.set_fd_handler(ours)

    def test_not_while_it_is_dispatched(self, guest_context, source):
        def callback():
            with pytest.raises(RuntimeError, match="another thread"):
                in_thread(source.prepare)

        guest_context.bh_schedule_oneshot(callback)
        drive(source, 0)

    def test_a_forked_child_is_refused(self, guest_context, source):
        drive(source, 0)
        told = in_child(source.prepare)
        assert told.startswith("RuntimeError") and "fork" in told
        ran = []
        guest_context.bh_schedule_oneshot(lambda: ran.append(1))
        drive(source, 0)
        assert ran == [1]

    def test_a_closed_context_has_none(self, fdmon):
        context = aioqemu_loop.AioContext(fdmon)
        context.close()
        for call in (context.get_g_source, context.use_g_source):
            with pytest.raises(RuntimeError, match="closed"):
                call()

    def test_the_monitor_changes_while_it_is_held(self, guest_context, source, pair):
        ours, theirs = pair()
        got = []
        guest_context.set_fd_handler(ours, lambda: got.append(ours.recv(1)))
        kinds = ["poll", "epoll", "poll", "epoll"]
        if not guest_context.g_source_mode:
            kinds = ["io_uring", "epoll", "io_uring", "poll", "io_uring"]
        for i, kind in enumerate(kinds):
            guest_context.set_fdmon(kind)
            theirs.send(b"%d" % i)
            while len(got) <= i:
                assert drive(source, 5 * 10**9)
        assert b"".join(got) == b"01234"[: len(kinds)]
        guest_context.set_fd_handler(ours)

    def test_memory_does_not_pile_up(self, guest_context, source, pair):
        # What QEMU 5.0 had: changes that nobody submitted, because GLib never called wait().
        ours, _ = pair()

        def churn(count):
            for _ in range(count):
                guest_context.set_fd_handler(ours, nothing)
                guest_context.set_fd_handler(ours)
                if count % 100 == 0:
                    drive(source, 0)

        def nothing():
            pass

        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        churn(20_000)
        before = resident()
        churn(100_000)
        assert resident() - before < 2 * 1024 * 1024


class TestUnsupported:
    def test_a_monitor_that_cannot_be_driven_is_refused_while_held_and_leaves_the_old_one(self, guest_context, source):
        from ..fdmon.python_fdmon import PythonFDMon

        before = guest_context.fdmon
        with pytest.raises(NotImplementedError, match="python"):
            guest_context.set_fdmon(PythonFDMon)
        assert guest_context.fdmon == before

    def test_the_classic_rule_replaces_it(self, no_leaks):
        from ..fdmon.python_fdmon import PythonFDMon

        context = aioqemu_loop.AioContext(PythonFDMon)
        with pytest.raises(NotImplementedError):
            context.use_g_source(keep_io_uring=True)
        assert context.fdmon == "python"
        with context.get_g_source():
            assert context.fdmon == "poll"
        context.close()
