"""What an IOThread is: its thread, its loop, its properties, and what its constructor refuses."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading

import pytest

import aioqemu_loop

PATIENCE = 15.0
INT64_MAX = 2**63 - 1


async def where():
    return threading.get_native_id(), asyncio.get_running_loop()


def test_it_runs_once_made(new_iothread, fdmon):
    thread = new_iothread("disk")
    assert thread.running
    assert thread.name == "disk"
    assert thread.fdmon == fdmon
    assert thread.context is thread.loop.context
    assert thread.submit(where()).result(PATIENCE) == (thread.thread_id, thread.loop)
    assert thread.thread_id != threading.get_native_id()
    (python_thread,) = [found for found in threading.enumerate() if found.name == "disk"]
    assert python_thread.native_id == thread.thread_id
    assert repr(thread) == f"<IOThread 'disk' running fdmon={fdmon}>"


def test_with_stops_it(fdmon, no_leaks):
    with aioqemu_loop.IOThread("disk", fdmon=fdmon) as thread:
        assert thread.running
    assert not thread.running
    assert thread.loop.is_closed()
    assert repr(thread) == f"<IOThread 'disk' stopped fdmon={fdmon}>"


def test_poll_parameters_are_qemus_by_default(iothread):
    assert (iothread.poll_max_ns, iothread.poll_grow, iothread.poll_shrink) == (32768, 0, 0)
    assert iothread.context.poll_max_ns == 32768


def test_poll_parameters_can_be_set_while_it_runs(new_iothread):
    thread = new_iothread(poll_max_ns=1000, poll_grow=3, poll_shrink=4)
    assert (thread.poll_max_ns, thread.poll_grow, thread.poll_shrink) == (1000, 3, 4)
    assert thread.context.poll_max_ns == 1000
    thread.poll_max_ns = INT64_MAX
    thread.poll_grow = INT64_MAX
    thread.poll_shrink = INT64_MAX
    assert (thread.poll_max_ns, thread.poll_grow, thread.poll_shrink) == (INT64_MAX,) * 3
    assert thread.context.poll_max_ns == INT64_MAX
    thread.poll_max_ns = 0
    assert thread.context.poll_max_ns == 0
    assert thread.submit(where()).result(PATIENCE)


@pytest.mark.parametrize("name", ["poll_max_ns", "poll_grow", "poll_shrink"])
@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (INT64_MAX + 1, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_poll_parameters_are_checked(iothread, fdmon, name, value, error):
    before = threading.active_count()
    with pytest.raises(error, match=name):
        aioqemu_loop.IOThread("other", fdmon=fdmon, **{name: value})
    assert threading.active_count() == before
    old = getattr(iothread, name)
    with pytest.raises(error, match=name):
        setattr(iothread, name, value)
    assert getattr(iothread, name) == old


def test_properties_of_a_stopped_one_can_still_be_read_and_set(iothread):
    iothread.stop()
    iothread.poll_max_ns = 5
    assert iothread.poll_max_ns == 5
    assert iothread.thread_id > 0


def test_no_thread_is_left_where_there_is_no_monitor(no_leaks):
    before = threading.active_count()
    with pytest.raises(ValueError, match="kqueue"):
        aioqemu_loop.IOThread("disk", fdmon="kqueue")
    assert threading.active_count() == before


class BrokenMonitor(aioqemu_loop.FDMon):
    name = "broken"

    def __init__(self):
        self.broken = True

    def update(self, old, new):
        pass

    def wait(self, ready_list, timeout_ns):
        if self.broken:
            raise OSError(5, "the monitor is broken")
        return 0

    def close(self):
        pass


def test_what_the_first_turn_raises_comes_out_of_the_constructor(no_leaks):
    before = threading.active_count()
    with pytest.raises(OSError, match="the monitor is broken"):
        aioqemu_loop.IOThread("disk", fdmon=BrokenMonitor)
    assert threading.active_count() == before


def test_a_monitor_that_breaks_later_ends_it(no_leaks):
    monitor = BrokenMonitor()
    monitor.broken = False
    thread = aioqemu_loop.IOThread("disk", fdmon=monitor, poll_max_ns=0)
    errors = []
    thread.loop.set_exception_handler(lambda _, details: errors.append(details))

    async def wait():
        await asyncio.Event().wait()

    future = thread.submit(wait())
    monitor.broken = True
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE)
    thread.stop()
    assert not thread.running
    assert errors[0]["message"] == "IOThread 'disk': cannot go on"
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(coroutine := where())
    assert coroutine.cr_frame is None


def test_one_that_is_forgotten_warns_and_stops(fdmon, no_leaks):
    thread = aioqemu_loop.IOThread("forgotten", fdmon=fdmon)
    worker = thread._worker.thread
    with pytest.warns(ResourceWarning, match="'forgotten' was not stopped"):
        del thread
        gc.collect()
    worker.join(PATIENCE)
    assert not worker.is_alive()


def test_stopping_the_loop_does_not_end_it(iothread):
    iothread.loop.call_soon_threadsafe(iothread.loop.stop)
    assert iothread.submit(where()).result(PATIENCE)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_a_callback_does_not_end_it(iothread, error):
    def leave():
        raise error(3)

    iothread.loop.call_soon_threadsafe(leave)
    assert iothread.submit(where()).result(PATIENCE)
    (details,) = iothread.errors
    assert isinstance(details["exception"], error)
    iothread.errors.clear()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_in_its_exception_handler_does_not_end_it(iothread, error, caplog):
    def leave(loop, details):
        raise error(3)

    iothread.loop.set_exception_handler(leave)
    iothread.loop.call_soon_threadsafe(lambda: 1 / 0)
    assert iothread.submit(where()).result(PATIENCE)
    assert iothread.running
    (record,) = caplog.records
    assert record.message == "IOThread 'worker': exit asked for by a callback"
    assert record.exc_info[0] is error


class End(BaseException):
    """Neither an Exception nor one of those that end programs."""


@pytest.mark.parametrize("error", [OSError, End])
def test_what_its_thread_dies_of_leaves_it_stopped(no_leaks, error, caplog):
    monitor = BrokenMonitor()
    monitor.broken = False
    thread = aioqemu_loop.IOThread("disk", fdmon=monitor, poll_max_ns=0)
    seen = []

    def leave(loop, details):
        seen.append(thread.running)
        raise SystemExit(3)

    def fail(*_):
        raise error("the monitor is broken")

    thread.loop.set_exception_handler(leave)
    monitor.wait = fail
    thread._worker.thread.join(PATIENCE)
    assert not thread.running
    assert thread.loop.is_closed()
    assert set(seen) == {False}
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(coroutine := where())
    assert coroutine.cr_frame is None
    thread.stop()
    assert caplog.records[0].message == "IOThread 'disk': cannot go on"


def test_subprocesses_run_in_it(iothread):
    async def echo():
        process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        output, _ = await process.communicate(b"through a child")
        return output, process.returncode

    assert iothread.submit(echo()).result(PATIENCE) == (b"through a child", 0)


# -- pools --


def test_a_pool_is_a_sequence_of_them(pool):
    assert len(pool) == 3
    assert [thread.name for thread in pool] == ["pool-0", "pool-1", "pool-2"]
    assert pool[0] is next(iter(pool))
    assert pool[1:] == [pool[1], pool[2]]
    assert pool[-1] in pool
    assert all(thread.running for thread in pool)
    assert len({thread.thread_id for thread in pool}) == 3


def test_a_pool_stops_all_of_them(fdmon, no_leaks):
    with aioqemu_loop.IOThreadPool(2, fdmon=fdmon, poll_max_ns=7) as pool:
        assert [thread.poll_max_ns for thread in pool] == [7, 7]
    assert not any(thread.running for thread in pool)
    pool.stop()


def test_a_pool_needs_a_number(no_leaks):
    before = threading.active_count()
    with pytest.raises(ValueError, match="at least 1"):
        aioqemu_loop.IOThreadPool(0)
    with pytest.raises(TypeError, match="int"):
        aioqemu_loop.IOThreadPool("3")
    with pytest.raises(ValueError, match="kqueue"):
        aioqemu_loop.IOThreadPool(2, fdmon="kqueue")
    assert threading.active_count() == before
