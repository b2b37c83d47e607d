"""What debug mode logs and warns of, letter by letter as this Python's own loop does; unclosed loops and transports."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import sys
import warnings

import pytest

HOST = "127.0.0.1"


def slow(*_):
    """Too slow for the loop, however quick: it has no patience any more. The last thing in these tests."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 0
    loop.call_soon(end, loop)


def patient(loop):
    loop.slow_callback_duration = 1000


def end(loop):
    patient(loop)
    loop.call_soon(loop.call_soon, loop.stop)


class Method:
    def slow(self, _):
        slow()


async def slow_task(name):
    await asyncio.sleep(0)
    slow()


def by_call_soon(loop):
    loop.call_soon(slow, "text", 5)


def by_timer(loop):
    loop.call_later(0.001, slow, b"bytes")


def by_method(loop):
    loop.call_soon(Method().slow, None)


def by_task(loop):
    loop.create_task(slow_task("name"), name="the task")


def by_future(loop):
    future = asyncio.Future(loop=loop)  # not create_future(), which in the stdlib's loop is where it was made
    future.add_done_callback(slow)
    future.set_result(None)


def by_cancelled_handle(loop):
    handles = []

    def cancels_itself():
        handles[0].cancel()
        slow()

    handles.append(loop.call_soon(cancels_itself))


def by_threadsafe(loop):
    loop.call_soon_threadsafe(slow)
    loop.call_soon(patient, loop)  # before the reader that the wake-up is in the stdlib's loop


def by_exception(loop):
    def fails():
        slow()
        raise LookupError

    loop.set_exception_handler(lambda *_: None)
    loop.call_soon(fails)


SLOW = [by_call_soon, by_timer, by_method, by_task, by_future, by_cancelled_handle, by_threadsafe, by_exception]


def plain(text):
    """Without what differs from run to run."""
    text = re.sub(r"took \d+\.\d{3} seconds", "took N seconds", text)
    text = re.sub(r"when=[\d.]+", "when=N", text)
    text = re.sub(r"\bfd=\d+", "fd=N", text)
    return re.sub(r"0x[0-9a-f]+", "0xN", text)


def log_of(loop, caplog, use):
    """What asyncio logs while `use(loop)` and what it started run, in debug mode, until something was slow()."""
    caplog.clear()
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    patient(loop)
    use(loop)
    loop.run_forever()
    gc.collect()
    return [(r.levelname, plain(r.getMessage())) for r in caplog.records if r.name == "asyncio" and "poll" not in r.msg]


@pytest.fixture
def as_the_stdlib(loop, caplog):
    """as_the_stdlib(use): the log of it on both loops is the same; returns it."""

    def compare(use):
        reference = asyncio.SelectorEventLoop()
        try:
            expected = log_of(reference, caplog, use)
        finally:
            reference.close()
        assert log_of(loop, caplog, use) == expected
        return expected

    return compare


class TestSlowCallbacks:
    @pytest.mark.parametrize("use", SLOW, ids=lambda use: use.__name__)
    def test_texts(self, as_the_stdlib, use):
        log = [line for line in as_the_stdlib(use) if "Executing" in line[1]]
        assert len(log) == 1 and log[0][0] == "WARNING"

    def test_slow_callback_duration_can_be_changed_while_it_runs(self, any_loop, caplog):
        """At once: by the time a callback returns."""

        def change(duration):
            any_loop.slow_callback_duration = duration

        def log():
            return [re.search(r"change\((.*?)\)", r.getMessage())[1] for r in caplog.records if "took" in r.msg]

        any_loop.set_debug(True)
        assert any_loop.slow_callback_duration == 0.1
        change(1000)
        for duration in (1000, 0, 1e-9, 999):
            any_loop.call_soon(change, duration)
        any_loop.run_until_complete(asyncio.sleep(0))
        assert log() == ["0", "1e-09"]

    def test_debug_mode_can_be_changed_while_it_runs(self, any_loop, caplog):
        """From the next callback on."""
        any_loop.slow_callback_duration = 0
        for callback in (int, lambda: any_loop.set_debug(True), float, lambda: any_loop.set_debug(False), str):
            any_loop.call_soon(callback)
        any_loop.run_until_complete(asyncio.sleep(0))
        log = " ".join(r.getMessage() for r in caplog.records if "took" in r.msg)
        assert "float" in log and "int" not in log and "str" not in log

    def test_nothing_outside_of_debug_mode(self, any_loop, caplog):
        any_loop.slow_callback_duration = 0
        any_loop.call_soon(int)
        any_loop.run_until_complete(asyncio.sleep(0))
        assert [r for r in caplog.records if "Executing" in r.getMessage()] == []


def test_calls_from_a_wrong_thread_are_not_noticed_outside_of_debug_mode(any_loop):
    async def main():
        return await any_loop.run_in_executor(None, any_loop.call_soon, int)

    assert isinstance(any_loop.run_until_complete(main()), asyncio.Handle)


class TestNeverAwaited:
    def test_the_warning_tells_where_the_coroutine_was_made(self, any_loop):
        any_loop.set_debug(True)

        async def forgotten():
            pass

        async def main():
            forgotten()

        with pytest.warns(RuntimeWarning, match=r"coroutine '.*forgotten' was never awaited") as caught:
            any_loop.run_until_complete(main())
            gc.collect()
        text = str(caught[0].message)
        assert "Coroutine created at (most recent call last)" in text and "in main\n" in text

    def test_without_debug_mode_it_does_not(self, any_loop):
        async def forgotten():
            pass

        async def main():
            forgotten()

        with pytest.warns(RuntimeWarning) as caught:
            any_loop.run_until_complete(main())
            gc.collect()
        assert "Coroutine created at" not in str(caught[0].message)

    def test_debug_set_while_it_runs_counts_from_then_on(self, any_loop):
        depths = []

        async def main():
            for debug in (True, False):
                any_loop.set_debug(debug)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                depths.append(sys.get_coroutine_origin_tracking_depth() > 0)

        any_loop.run_until_complete(main())
        assert depths == [True, False]
        assert sys.get_coroutine_origin_tracking_depth() == 0


class TestSources:
    def test_tracebacks_of_handles_tasks_and_futures(self, any_loop):
        any_loop.set_debug(True)

        def here():
            yield any_loop.call_soon(int)
            yield any_loop.call_later(1, int)
            yield asyncio.Future(loop=any_loop)

        for made in here():
            assert made._source_traceback[-1].name == "here"
            assert made._source_traceback[-1].filename == __file__
            made.cancel()

        async def main():
            return asyncio.current_task()._source_traceback[-1].name

        assert any_loop.run_until_complete(main()) in ("run_until_complete", "ensure_future", "_ensure_future")

    def test_there_are_none_outside_of_debug_mode(self, any_loop):
        assert any_loop.call_soon(int)._source_traceback is None
        assert any_loop.create_future()._source_traceback is None

    def test_of_readers(self, loop):
        loop.set_debug(True)
        a, b = socket.socketpair()
        with a, b:
            handle = loop._add_reader(a.fileno(), int)
            assert handle._source_traceback[-1].name == "test_of_readers"
            loop.remove_reader(a)


def unclosed_stream(loop):
    ours, peer = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
    return transport, [peer]


def unclosed_datagram(loop):
    endpoint = loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, 0))
    return loop.run_until_complete(endpoint)[0], []


def unclosed_read_pipe(loop):
    read_fd, write_fd = os.pipe()
    connecting = loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read_fd, "rb", 0))
    return loop.run_until_complete(connecting)[0], [os.fdopen(write_fd, "wb", 0)]


def unclosed_write_pipe(loop):
    read_fd, write_fd = os.pipe()
    connecting = loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write_fd, "wb", 0))
    return loop.run_until_complete(connecting)[0], [os.fdopen(read_fd, "rb", 0)]


UNCLOSED = [unclosed_stream, unclosed_datagram, unclosed_read_pipe, unclosed_write_pipe]


@pytest.fixture
def warnings_of():
    """warnings_of(factory, make): the unclosed-transport warnings when the transport and its loop are dropped."""

    def collect(factory, make):
        loop = factory()
        transport, others = make(loop)
        text = plain(repr(transport))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.close()
            del transport, loop
            gc.collect()
        for other in others:
            other.close()
        ours = [w for w in caught if "unclosed transport" in str(w.message) or "unclosed event loop" in str(w.message)]
        return text, [(w.category, plain(str(w.message)), w.source is not None) for w in ours]

    return collect


class TestUnclosed:
    @pytest.mark.parametrize("make", UNCLOSED, ids=lambda make: make.__name__)
    def test_transports(self, loop_factory, no_leaks, warnings_of, make):
        _, (warning,) = warnings_of(loop_factory, make)
        _, expected = warnings_of(asyncio.SelectorEventLoop, make)
        category, text, has_source = warning
        assert category is ResourceWarning and has_source
        assert text.startswith("unclosed transport <")
        # The stdlib's has its own class names, and for sockets also warns of the socket.
        assert [(category, "unclosed transport", has_source)] == [
            (category, text[:18], has_source) for category, text, has_source in expected
        ]

    def test_loops(self, any_factory, no_leaks):
        loop = any_factory()
        text = repr(loop)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del loop
            gc.collect()
        (warning,) = [w for w in caught if "unclosed event loop" in str(w.message)]
        assert str(warning.message) == f"unclosed event loop {text}"
        assert warning.category is ResourceWarning

    def test_a_running_servers_sockets_are_closed_with_it(self, any_factory, no_leaks):
        loop = any_factory()
        server = loop.run_until_complete(loop.create_server(asyncio.Protocol, HOST, 0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            loop.close()
            del server, loop
            gc.collect()
