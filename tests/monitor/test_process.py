"""A monitor at the edges of a process: AIOQEMU_MONITOR, fork, exit, death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings

import pytest

import aioqemu_loop
from aioqemu_loop import monitor
from aioqemu_loop.monitor.client import Client

PATIENCE = 15.0

SERVICE = """
import asyncio, sys, aioqemu_loop
async def main():
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
{start}
"""
STARTS = {
    "run": "aioqemu_loop.run(main())",
    "new_event_loop": "loop = aioqemu_loop.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "policy": (
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
        "asyncio.set_event_loop_policy(aioqemu_loop.EventLoopPolicy()); asyncio.run(main())"
    ),
}


class Service:
    """A program of its own that runs until it gets a line."""

    def __init__(self, start, address, *options):
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", SERVICE.format(start=start)],
            env={**os.environ, "AIOQEMU_MONITOR": str(address)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def end(self):
        """(exit status, what went to stderr)"""
        _, errors = self.process.communicate("\n", timeout=PATIENCE)
        return self.process.returncode, errors


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_variable_starts_it_and_its_file_goes_with_the_process(tmp_path, start):
    service = Service(start, tmp_path / "monitor.%p", "-X", "dev", "-W", "error")
    path = tmp_path / f"monitor.{service.process.pid}"
    with Client(path) as client:
        (loop,) = client.execute("query-loops")
        assert loop["running"] and loop["thread"] == "MainThread"
        assert [task["coroutine"] for task in client.execute("query-tasks")] == ["main"]
    assert service.end() == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_second_process_warns_and_goes_on(tmp_path):
    path = tmp_path / "monitor"
    first = Service(STARTS["run"], path)
    second = Service(STARTS["run"], path)
    status, errors = second.end()
    assert status == 0
    assert "RuntimeWarning: no monitor at AIOQEMU_MONITOR=" in errors and "somebody listens" in errors
    with Client(path) as client:
        assert client.execute("query-loops")
    assert first.end() == (0, "")


def test_a_warning_that_is_an_error_does_not_stand_in_the_programs_way(tmp_path):
    first = Service(STARTS["run"], tmp_path / "monitor")
    second = Service(STARTS["run"], tmp_path / "monitor", "-W", "error")
    status, errors = second.end()
    assert status == 0
    assert errors.startswith("RuntimeWarning: no monitor at AIOQEMU_MONITOR=") and "somebody listens" in errors
    assert first.end() == (0, "")


def test_an_address_that_is_refused_warns_and_the_program_goes_on():
    status, errors = Service(STARTS["run"], "0.0.0.0:4444").end()
    assert status == 0 and "RuntimeWarning" in errors and "loopback" in errors


def test_a_killed_process_leaves_a_file_that_the_next_replaces(tmp_path):
    path = tmp_path / "monitor"
    first = Service(STARTS["run"], path)
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    assert path.is_socket()
    second = Service(STARTS["run"], path)
    with Client(path) as client:
        assert client.execute("query-loops")
    assert second.end() == (0, "")


def test_without_the_variable_it_is_not_even_imported():
    code = (
        "import sys, asyncio, aioqemu_loop; aioqemu_loop.run(asyncio.sleep(0));"
        "print([name for name in sys.modules if 'monitor' in name])"
    )
    env = {name: value for name, value in os.environ.items() if name != "AIOQEMU_MONITOR"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "aioqemu_loop.monitor" not in done.stdout


def in_child(function):
    """Run it in a forked child; returns what it returned, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads, from 3.12 on: that is the point
        child = os.fork()
    if child == 0:
        text = "failed"
        try:
            text = str(function())
        finally:
            os.write(write, text.encode())
            os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def test_a_child_neither_answers_nor_removes_the_file(watched, client):
    def child():
        assert not watched.running
        watched.stop()
        monitor.stop()
        return os.path.exists(watched.address)

    assert in_child(child) == "True"
    assert client.execute("query-version")
    assert watched.running


def test_a_child_does_not_keep_the_connections_open(tmp_path):
    """They end with the parent's monitor, though the child lives on."""
    with monitor.start(tmp_path / "monitor") as started, Client(started.address) as client:
        client.execute("query-version")
        go_on, ended = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(ended)
            os.read(go_on, 1)
            os._exit(0)
        os.close(go_on)
        try:
            started.stop()
            with pytest.raises(OSError):
                client.execute("query-version")
            with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError):
                sock.connect(str(tmp_path / "monitor"))
        finally:
            os.close(ended)
            os.waitpid(child, 0)


def test_a_child_can_have_a_monitor_of_its_own(watched, client, tmp_path):
    def child():
        with monitor.start(tmp_path / "child") as own, Client(own.address) as other:
            loop = aioqemu_loop.new_event_loop()
            found = len(other.execute("query-loops"))
            loop.close()
            return found

    assert in_child(child) == "1"
    assert client.execute("query-version")


def test_one_that_is_stopped_in_its_own_thread_refuses_and_goes_on(watched, client):
    with pytest.raises(RuntimeError, match="cannot stop itself"):
        watched._thread.submit(in_coroutine(watched.stop)).result(PATIENCE)
    assert watched.running and os.path.exists(watched.address)
    assert client.execute("query-version")


async def in_coroutine(function):
    return function()


def test_two_monitors(program, tmp_path, no_leaks):
    with monitor.start(tmp_path / "a") as a, monitor.start("127.0.0.1:0") as b:
        with Client(a.address) as one, Client(b.address) as two:
            assert one.execute("query-loops")[-1] == two.execute("query-loops")[-1]
        a.stop()
        assert b.running and not a.running
        assert program.loop._notes_task_births
        monitor.stop()
        assert not b.running
    assert not program.loop._notes_task_births
    assert repr(a) == f"<Monitor '{tmp_path / 'a'}' stopped>"


def test_one_that_nobody_stops_ends_with_the_interpreter(tmp_path):
    code = (
        "import sys, time\nfrom aioqemu_loop import monitor\nfrom aioqemu_loop.monitor.client import Client\n"
        "m = monitor.start(sys.argv[1])\nc = Client(m.address)\nc.execute('query-fdmon')\nc.close()\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, str(tmp_path / "monitor")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "monitor").exists()
    assert time.monotonic() - started < 10


BUSY = """
import asyncio, sys, time, aioqemu_loop
from aioqemu_loop import monitor

async def main():
    loop = asyncio.get_running_loop()
    with monitor.start(sys.argv[1]):
        looks, began = loop.metrics().looks, time.monotonic_ns()
        while time.monotonic_ns() - began < 200_000_000:
            await asyncio.sleep(0)
        print(loop.metrics().looks - looks, (time.monotonic_ns() - began) // 1000)

aioqemu_loop.run(main(), fdmon=sys.argv[2])
"""


def test_a_busy_loop_does_not_look_more_often_because_of_it(tmp_path, fdmon):
    """As it would for other threads, which may be waiting for the GIL: every 10 us instead of every 100."""
    result = subprocess.run(
        [sys.executable, "-c", BUSY, str(tmp_path / "monitor"), fdmon], capture_output=True, text=True, check=True
    )
    looks, microseconds = map(int, result.stdout.split())
    assert 0 < looks < microseconds / 50
