"""How child processes end: signals, cancellation, somebody else who reaps them, a loop that is closed before."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

PIPE = asyncio.subprocess.PIPE
HAS_WATCHERS = sys.version_info < (3, 14)


def wait_until_dead(pid):
    """Until it is a zombie; nobody is told."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def sleeper(**options):
    return await asyncio.create_subprocess_exec("sleep", "60", **options)


class TestSignals:
    @pytest.mark.parametrize(
        "send, number",
        [
            (lambda process: process.kill(), signal.SIGKILL),
            (lambda process: process.terminate(), signal.SIGTERM),
            (lambda process: process.send_signal(signal.SIGINT), signal.SIGINT),
        ],
        ids=["kill", "terminate", "send_signal"],
    )
    def test_each_way(self, run, send, number):
        async def main():
            process = await sleeper(stdin=PIPE, stdout=PIPE)
            assert process.returncode is None
            send(process)
            assert await process.wait() == -number
            assert process.returncode == -number

        run(main())

    def test_signals_to_one_that_ended_and_is_not_reaped(self, run, stdlib_is_wrong):
        """Nobody takes the exit status away meanwhile."""
        if sys.version_info < (3, 13):
            stdlib_is_wrong((3, 0), "its thread and Popen fight for the exit status")

        async def main():
            process = await sleeper()
            process.kill()
            wait_until_dead(process.pid)
            process.kill()
            process.terminate()
            process.send_signal(0)
            assert await process.wait() == -signal.SIGKILL

        run(main())

    def test_signals_to_one_that_is_gone(self, run):
        async def main():
            process = await asyncio.create_subprocess_exec("true")
            await process.wait()
            for _ in range(3):
                await asyncio.sleep(0)
            for send in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGINT)):
                with contextlib.suppress(ProcessLookupError):
                    send()

        run(main())

    def test_the_transport_is_closed_after_the_end(self, run, stdlib_is_wrong, caplog):
        """close() looks whether the child runs, and so takes its exit status."""
        stdlib_is_wrong((3, 0), "reports 255")

        async def main():
            process = await sleeper()
            os.kill(process.pid, signal.SIGUSR1)
            wait_until_dead(process.pid)
            process._transport.close()
            assert await process.wait() == -signal.SIGUSR1

        run(main())
        assert caplog.records == []

    def test_closing_the_transport_kills(self, run):
        async def main():
            process = await sleeper(stdin=PIPE, stdout=PIPE, stderr=PIPE)
            process._transport.close()
            process._transport.close()
            assert await process.wait() == -signal.SIGKILL

        run(main())


class TestCancelled:
    def test_wait(self, run):
        async def main():
            process = await sleeper()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), 0.01)
            assert process.returncode is None
            process.kill()
            assert await process.wait() == -signal.SIGKILL

        run(main())

    def test_communicate(self, run, broken_pipes_are_told):
        async def main():
            process = await sleeper(stdin=PIPE, stdout=PIPE, stderr=PIPE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(process.communicate(b"x" * 200_000), 0.05)
            process.kill()
            await process.communicate()
            assert process.returncode == -signal.SIGKILL

        run(main())

    def test_the_start(self, run, any_loop, monkeypatch):
        """The child is killed and reaped before the cancellation comes out."""
        started = []
        popen = subprocess.Popen

        def noting(*args, **options):
            started.append(popen(*args, **options))
            return started[-1]

        monkeypatch.setattr(subprocess, "Popen", noting)

        async def main():
            task = any_loop.create_task(sleeper(stdin=PIPE, stdout=PIPE))
            await asyncio.sleep(0)
            assert started
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert started[0].returncode == -signal.SIGKILL
            for _ in range(5):
                await asyncio.sleep(0)

        run(main())


class TestOthersWhoReap:
    def test_somebody_else_took_the_exit_status(self, any_loop, run, caplog):
        async def main():
            process = await sleeper()
            os.kill(process.pid, signal.SIGUSR1)
            with contextlib.suppress(ChildProcessError):  # asyncio's thread may be there first
                os.waitpid(process.pid, 0)
                return await process.wait(), True
            return await process.wait(), False

        with caplog.at_level(logging.WARNING, "asyncio"):
            code, ours = run(main())
        if ours:
            assert code == 255
            (record,) = caplog.records
            assert "will report returncode 255" in record.message
        else:
            assert isinstance(any_loop, asyncio.SelectorEventLoop)

    def test_sigchld_is_ignored(self, run, caplog):
        """The system forgets the exit status of children then."""
        old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:

            async def main():
                process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
                assert await process.communicate(b"text") == (b"text", None)
                return process.returncode

            with caplog.at_level(logging.WARNING, "asyncio"):
                assert run(main()) == 255
            assert "will report returncode 255" in caplog.records[-1].message
        finally:
            signal.signal(signal.SIGCHLD, old)

    def test_a_sigchld_handler_of_the_program_is_left_alone(self, run):
        seen = []
        old = signal.signal(signal.SIGCHLD, lambda *args: seen.append(1))
        try:

            async def main():
                process = await asyncio.create_subprocess_exec("true")
                assert await process.wait() == 0

            run(main())
            assert seen
        finally:
            signal.signal(signal.SIGCHLD, old)


class TestWithoutPidfds:
    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch):
        def refuse(pid, flags=0):
            raise PermissionError(1, "no pidfds in this sandbox")

        monkeypatch.setattr(os, "pidfd_open", refuse)

    def test_a_thread_waits(self, loop):
        async def main():
            processes = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {i}") for i in range(5)]
            assert [await process.wait() for process in processes] == list(range(5))
            process = await sleeper(stdin=PIPE)
            process.kill()
            assert await process.wait() == -signal.SIGKILL

        loop.run_until_complete(asyncio.wait_for(main(), 20))

    def test_signals_to_one_that_ended_and_is_not_reaped(self, loop):
        async def main():
            process = await sleeper()
            process.kill()
            wait_until_dead(process.pid)
            time.sleep(0.05)
            process.kill()
            assert await process.wait() == -signal.SIGKILL

        loop.run_until_complete(asyncio.wait_for(main(), 20))


class TestTheLoopIsClosedBefore:
    def test_no_fd_and_no_child_is_left(self, any_factory, no_leaks, stdlib_is_closed_too_early):
        loop = any_factory()
        process = loop.run_until_complete(sleeper(stdin=PIPE, stdout=PIPE))
        popen = process._transport.get_extra_info("subprocess")
        loop.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del process
            gc.collect()
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        assert any(text.startswith("unclosed transport <") and "SubprocessTransport" in text for text in texts)
        assert popen.wait(10) == -signal.SIGKILL

    @pytest.fixture
    def stdlib_is_closed_too_early(self, any_factory):
        if any_factory is asyncio.SelectorEventLoop:
            pytest.skip("keeps the pidfd, or raises in finalizers")


@pytest.mark.skipif(not HAS_WATCHERS, reason="gone in 3.14")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestChildWatchers:
    @pytest.fixture(params=["SafeChildWatcher", "FastChildWatcher", "MultiLoopChildWatcher", "ThreadedChildWatcher"])
    def watcher(self, request, any_loop):
        watcher = getattr(asyncio, request.param)()
        watcher.attach_loop(any_loop)
        asyncio.set_child_watcher(watcher)
        yield watcher
        asyncio.set_child_watcher(None)
        watcher.close()

    def test_each(self, run, watcher):
        async def main():
            for code in (0, 7):
                process = await asyncio.create_subprocess_shell(f"cat; exit {code}", stdin=PIPE, stdout=PIPE)
                assert await process.communicate(b"text") == (b"text", None)
                assert process.returncode == code
            process = await sleeper()
            process.kill()
            assert await process.wait() == -signal.SIGKILL

        run(main())

    def test_one_that_is_not_active(self, run):
        watcher = asyncio.SafeChildWatcher()
        asyncio.set_child_watcher(watcher)

        async def main():
            with pytest.raises(RuntimeError, match="is not activated, subprocess support is not installed"):
                await asyncio.create_subprocess_exec("true")

        try:
            run(main())
        finally:
            asyncio.set_child_watcher(None)
            watcher.close()

    def test_one_of_the_program_is_held_while_the_child_is_made(self, run, monkeypatch):
        calls = []
        popen = subprocess.Popen

        def noting(*args, **options):
            calls.append("child")
            return popen(*args, **options)

        monkeypatch.setattr(subprocess, "Popen", noting)

        class Watcher(asyncio.ThreadedChildWatcher):
            def __enter__(self):
                calls.append("enter")
                return self

            def __exit__(self, *args):
                calls.append("exit")

            def add_child_handler(self, pid, callback, *args):
                calls.append("add")
                super().add_child_handler(pid, callback, *args)

        asyncio.set_child_watcher(Watcher())

        async def main():
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0

        try:
            run(main())
        finally:
            asyncio.set_child_watcher(None)
        assert calls == ["enter", "child", "add", "exit"]
