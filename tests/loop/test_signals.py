"""Signals: handlers, Ctrl-C on an idle loop, the wake-up fd and who owns it, races."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time

import pytest

import aioqemu_loop

from ..context.helpers import Interrupted


@pytest.fixture(autouse=True)
def signals_as_before():
    """Whatever a test does, the next one finds the signals as they were."""
    numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    assert signal.set_wakeup_fd(-1) == -1, "the wake-up fd was left set"


def kill_me(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def killed_while_asleep(number):
    """Sends the signal from another thread, a moment after the loop has nothing left to do."""
    timer = threading.Timer(0.1, kill_me, (number,))
    timer.start()
    try:
        yield
    finally:
        timer.join()


class TestHandlers:
    def test_a_handler_runs_with_its_arguments_in_the_loop(self, any_loop):
        seen = []

        def handler(*args):
            seen.append((args, asyncio.get_running_loop() is any_loop))
            any_loop.stop()

        any_loop.add_signal_handler(signal.SIGUSR1, handler, 1, "two")
        with killed_while_asleep(signal.SIGUSR1):
            any_loop.run_forever()
        assert seen == [((1, "two"), True)]
        assert any_loop.remove_signal_handler(signal.SIGUSR1) is True
        assert any_loop.remove_signal_handler(signal.SIGUSR1) is False

    def test_a_signal_that_came_before_the_run_is_handled_in_it(self, any_loop):
        seen = []
        any_loop.add_signal_handler(signal.SIGUSR1, lambda: (seen.append(1), any_loop.stop()))
        kill_me()
        any_loop.run_forever()
        assert seen == [1]

    def test_the_last_handler_counts(self, any_loop, turn):
        seen = []
        any_loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        any_loop.add_signal_handler(signal.SIGUSR1, seen.append, 2)
        kill_me()
        turn(any_loop, 3)
        assert seen == [2]

    def test_several_signals_have_their_own_handlers(self, any_loop, turn):
        seen = []
        any_loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        any_loop.add_signal_handler(signal.SIGUSR2, seen.append, 2)
        kill_me(signal.SIGUSR1)
        kill_me(signal.SIGUSR2)
        turn(any_loop, 3)
        assert sorted(seen) == [1, 2]
        any_loop.remove_signal_handler(signal.SIGUSR1)
        kill_me(signal.SIGUSR2)
        turn(any_loop, 3)
        assert sorted(seen) == [1, 2, 2]

    def test_sigint_can_have_a_handler_and_gets_its_own_back(self, any_loop, turn):
        seen = []
        any_loop.add_signal_handler(signal.SIGINT, seen.append, "int")
        kill_me(signal.SIGINT)
        turn(any_loop, 3)
        assert seen == ["int"]
        any_loop.remove_signal_handler(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_removed_handler_leaves_the_default_behind(self, any_loop):
        any_loop.add_signal_handler(signal.SIGUSR1, print)
        any_loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

    def test_close_gives_every_handler_back(self, any_loop):
        any_loop.add_signal_handler(signal.SIGUSR1, print)
        any_loop.add_signal_handler(signal.SIGINT, print)
        any_loop.close()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1

    def test_handlers_survive_from_run_to_run(self, any_loop, turn):
        seen = []
        any_loop.add_signal_handler(signal.SIGUSR1, seen.append, 1)
        for i in range(3):
            turn(any_loop)
            kill_me()
            turn(any_loop, 2)
            assert len(seen) == i + 1

    def test_an_exception_in_a_handler_goes_to_the_exception_handler(self, any_loop, errors, turn):
        any_loop.add_signal_handler(signal.SIGUSR1, lambda: 1 / 0)
        kill_me()
        turn(any_loop, 3)
        assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
        errors.clear()

    def test_slow_system_calls_are_restarted_not_interrupted(self, any_loop):
        """asyncio calls siginterrupt(False): a C library's read() in a thread must not see EINTR."""
        any_loop.add_signal_handler(signal.SIGUSR1, print)
        with open("/proc/self/status") as status:
            caught = next(line for line in status if line.startswith("SigCgt"))
        assert int(caught.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1


class TestErrors:
    @pytest.mark.parametrize("bad", ["SIGUSR1", 1.5, None])
    def test_what_is_no_int(self, any_loop, bad):
        for call in (
            lambda: any_loop.add_signal_handler(bad, print),
            lambda: any_loop.remove_signal_handler(bad),
        ):
            with pytest.raises(TypeError, match=f"^sig must be an int, not {bad!r}$"):
                call()

    @pytest.mark.parametrize("bad", [0, -1, 1000, signal.NSIG])
    def test_what_is_no_signal(self, any_loop, bad):
        for call in (
            lambda: any_loop.add_signal_handler(bad, print),
            lambda: any_loop.remove_signal_handler(bad),
        ):
            with pytest.raises(ValueError, match=f"^invalid signal number {bad}$"):
                call()

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
    def test_what_cannot_be_caught(self, any_loop, number):
        with pytest.raises(RuntimeError, match=r"^sig \d+ cannot be caught$"):
            any_loop.add_signal_handler(int(number), print)
        assert any_loop.remove_signal_handler(int(number)) is False
        assert signal.set_wakeup_fd(-1) == -1

    def test_coroutines(self, any_loop):
        async def function():
            pass

        coroutine = function()
        for bad in (function, coroutine):
            with pytest.raises(TypeError, match=r"^coroutines cannot be used with add_signal_handler\(\)$"):
                any_loop.add_signal_handler(signal.SIGUSR1, bad)
        coroutine.close()

    def test_not_the_main_thread(self, any_loop):
        raised = []

        def work():
            try:
                any_loop.add_signal_handler(signal.SIGUSR1, print)
            except Exception as exc:
                raised.append((type(exc), str(exc)))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert raised == [(RuntimeError, "set_wakeup_fd only works in main thread of the main interpreter")]

    def test_not_in_the_main_thread_of_a_running_loop_either(self, any_loop):
        async def main():
            with pytest.raises(RuntimeError, match="main thread"):
                any_loop.add_signal_handler(signal.SIGUSR1, print)

        thread = threading.Thread(target=lambda: any_loop.run_until_complete(main()))
        thread.start()
        thread.join()


class TestCtrlC:
    def test_it_ends_an_idle_run_forever_at_once(self, any_loop):
        started = time.monotonic()
        with killed_while_asleep(signal.SIGINT), pytest.raises(KeyboardInterrupt):
            any_loop.run_forever()
        assert time.monotonic() - started < 5
        any_loop.run_until_complete(asyncio.sleep(0))

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with 3.11")
    def test_it_cancels_the_main_task_of_a_runner(self, any_factory):
        cancelled = []

        async def main():
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        with (
            killed_while_asleep(signal.SIGINT),
            pytest.raises(KeyboardInterrupt),
            asyncio.Runner(loop_factory=any_factory) as runner,
        ):
            runner.run(main())
        assert cancelled == [True]

    def test_it_ends_run(self, fdmon):
        async def main():
            await asyncio.get_running_loop().create_future()

        with killed_while_asleep(signal.SIGINT), pytest.raises(KeyboardInterrupt):
            aioqemu_loop.run(main(), fdmon=fdmon)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_it_ends_a_loop_that_never_sleeps(self, any_loop):
        def busy():
            any_loop.call_soon(busy)

        any_loop.call_soon(busy)
        with killed_while_asleep(signal.SIGINT), pytest.raises(KeyboardInterrupt):
            any_loop.run_forever()

    def test_a_pythons_own_handler_runs_while_the_loop_sleeps(self, any_loop):
        seen = []

        def handler(number, frame):
            seen.append(number)
            any_loop.call_soon_threadsafe(any_loop.stop)

        signal.signal(signal.SIGUSR1, handler)
        with killed_while_asleep(signal.SIGUSR1):
            any_loop.run_forever()
        assert seen == [signal.SIGUSR1]

    def test_an_exception_from_a_pythons_own_handler_comes_out_of_run_forever(self, any_loop, turn):
        def handler(number, frame):
            raise LookupError("from the signal")

        signal.signal(signal.SIGUSR1, handler)
        with killed_while_asleep(signal.SIGUSR1), pytest.raises(LookupError, match="from the signal"):
            any_loop.run_forever()
        turn(any_loop)

    def test_call_soon_in_a_pythons_own_handler_is_enough(self, loop):
        """The handler runs in the loop's thread, between two looks: what it queued must not wait."""
        signal.signal(signal.SIGUSR1, lambda number, frame: loop.call_soon(loop.stop))
        with killed_while_asleep(signal.SIGUSR1):
            loop.run_forever()


class TestInterrupted:
    @pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
    def test_a_handler_may_raise_at_every_call_of_a_run_and_the_loop_has_stopped(self, loop, debug):
        """The second of two quick Ctrl-C left a loop that said for ever that it runs, and could not even be closed."""
        loop.set_debug(debug)
        files = (aioqemu_loop.loop.loop.__file__, aioqemu_loop.loop.signals.__file__)
        hooks = sys.get_asyncgen_hooks()
        for number in itertools.count(1):
            handle = loop.call_soon(loop.stop)
            with Interrupted(number, files, ("call", "c_return")) as interrupted:
                loop.run_forever()
            handle.cancel()
            assert not loop.is_running(), number
            assert asyncio._get_running_loop() is None, number
            assert sys.get_asyncgen_hooks() == hooks, number
            assert sys.get_coroutine_origin_tracking_depth() == 0, number
            loop.run_until_complete(asyncio.sleep(0))
            if interrupted.beyond:
                break
        assert number > 10

    def test_a_closed_loop_leaves_no_wakeup_fd_wherever_its_first_run_was_interrupted(self, loop_factory):
        """Python would write the numbers of signals into what has its number by then."""
        files = (aioqemu_loop.loop.signals.__file__,)
        for number in itertools.count(1):
            loop = loop_factory()
            loop.call_soon(loop.stop)
            with Interrupted(number, files, ("call", "c_return")) as interrupted:
                loop.run_forever()
            loop.close()
            assert signal.set_wakeup_fd(-1) == -1, number
            if interrupted.beyond:
                break
        assert number > 3


class TestWakeupFd:
    def test_the_programs_own_is_respected_and_put_back(self, loop, turn):
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            signal.set_wakeup_fd(writer.fileno())
            signal.signal(signal.SIGUSR1, lambda number, frame: None)
            inside = []

            def look():
                fd = signal.set_wakeup_fd(-1)
                signal.set_wakeup_fd(fd)
                inside.append(fd)
                kill_me()

            loop.call_soon(look)
            turn(loop, 2)
            assert inside == [writer.fileno()]
            assert reader.recv(10) == bytes([signal.SIGUSR1])
            assert signal.set_wakeup_fd(-1) == writer.fileno()

    def test_it_is_left_unset_after_the_run(self, any_loop):
        any_loop.run_until_complete(asyncio.sleep(0))
        fd = signal.set_wakeup_fd(-1)
        assert fd == -1

    def test_one_that_a_callback_sets_is_not_taken_away(self, loop, turn):
        reader, writer = socket.socketpair()
        with reader, writer:
            writer.setblocking(False)
            loop.call_soon(signal.set_wakeup_fd, writer.fileno())
            turn(loop)
            assert signal.set_wakeup_fd(-1) == writer.fileno()

    def test_two_loops_in_turn(self, loop_factory, turn):
        first, second = loop_factory(), loop_factory()
        try:
            seen = []
            first.add_signal_handler(signal.SIGUSR1, seen.append, 1)
            turn(second)
            kill_me()
            turn(first, 3)
            assert seen == [1]
            with killed_while_asleep(signal.SIGINT), pytest.raises(KeyboardInterrupt):
                second.run_forever()
        finally:
            second.close()
            first.close()


class TestRaces:
    def test_a_signal_every_millisecond_breaks_nothing(self, any_loop):
        """Timers, a reader and threads go on, and the handler is called."""
        count = [0]
        echoes = []
        a, b = socket.socketpair()

        def handler():
            count[0] += 1

        def read():
            echoes.append(a.recv(100))
            b.send(b"x")

        async def main():
            for _ in range(20):
                await asyncio.sleep(0.01)
                await any_loop.run_in_executor(None, time.sleep, 0)

        with a, b:
            any_loop.add_signal_handler(signal.SIGALRM, handler)
            any_loop.add_reader(a, read)
            b.send(b"x")
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            any_loop.run_until_complete(main())
            signal.setitimer(signal.ITIMER_REAL, 0)
            any_loop.remove_reader(a)
        assert count[0] > 20
        assert len(echoes) > 20

    def test_ten_thousand_signals_at_any_moment_of_falling_asleep(self, any_loop):
        """Each signal must end the sleep by itself: there is nothing else that would. A thread sends the next
        when the last was handled, so the loop is just about to sleep, at another place every time."""
        rounds = 10_000
        handled = threading.Semaphore(0)
        left = [rounds]

        def handler():
            left[0] -= 1
            handled.release()
            if left[0] == 0:
                any_loop.stop()

        main_thread = threading.main_thread().ident

        def sender():
            for i in range(rounds):
                for _ in range(i % 50):
                    pass
                signal.pthread_kill(main_thread, signal.SIGUSR1)
                if not handled.acquire(timeout=20):
                    any_loop.call_soon_threadsafe(any_loop.stop)
                    return

        any_loop.add_signal_handler(signal.SIGUSR1, handler)
        thread = threading.Thread(target=sender)
        thread.start()
        any_loop.run_forever()
        thread.join()
        assert left == [0]

    def test_signals_to_another_thread_wake_the_loop_too(self, any_loop):
        """The kernel may deliver a signal to any thread: the wake-up fd is what wakes the loop then."""
        rounds = 500
        handled = threading.Semaphore(0)
        left = [rounds]

        def handler(number, frame):
            left[0] -= 1
            handled.release()
            if left[0] == 0:
                any_loop.call_soon_threadsafe(any_loop.stop)

        def sender():
            for _ in range(rounds):
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
                if not handled.acquire(timeout=20):
                    any_loop.call_soon_threadsafe(any_loop.stop)
                    return

        any_loop.add_signal_handler(signal.SIGUSR2, print)  # makes the stdlib's loop set a wake-up fd, too
        signal.signal(signal.SIGUSR1, handler)
        thread = threading.Thread(target=sender)
        thread.start()
        any_loop.run_forever()
        thread.join()
        assert left == [0]
