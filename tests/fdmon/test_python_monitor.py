"""A monitor written in Python and passed as fdmon=: how it is made, closed, and how it fails."""

from __future__ import annotations

import threading

import pytest

import aioqemu_loop

from ..context.helpers import thread_sleeps, wait_for
from .python_fdmon import PythonFDMon


def test_a_monitor_can_be_passed_as_an_object_and_is_closed(no_leaks):
    monitor = PythonFDMon()
    context = aioqemu_loop.AioContext(monitor)
    assert context.fdmon == "python"
    context.close()
    assert monitor.closed
    assert monitor.handlers == {} or len(monitor.handlers) == 1  # its own eventfd may stay


def test_an_exception_of_a_monitor_comes_out_of_poll(no_leaks):
    class Broken(PythonFDMon):
        broken = False

        def wait(self, ready_list, timeout_ns):
            if self.broken:
                raise ZeroDivisionError
            return super().wait(ready_list, timeout_ns)

    monitor = Broken()
    context = aioqemu_loop.AioContext(monitor)
    monitor.broken = True
    with pytest.raises(ZeroDivisionError):
        context.poll(False)
    monitor.broken = False
    ran = []
    context.bh_schedule_oneshot(lambda: ran.append(1))
    context.poll()
    assert ran == [1]
    context.close()


def test_a_monitor_that_fails_to_settle_lets_a_waiting_remover_go(no_leaks, pair):
    class Broken(PythonFDMon):
        def settle(self, handler, ready_list):
            raise ZeroDivisionError

    context = aioqemu_loop.AioContext(Broken())
    ours, _ = pair()
    context.set_fd_handler(ours, lambda: None)
    thread = threading.Thread(target=lambda: context.set_fd_handler(ours, wait=True), daemon=True)

    def callback():
        thread.start()
        wait_for(lambda: thread.native_id is not None and thread_sleeps(thread.native_id))

    context.bh_schedule_oneshot(callback)
    with pytest.raises(ZeroDivisionError):
        context.poll(False)
        context.poll(False)
    thread.join(2)
    assert not thread.is_alive()
    context.close()
