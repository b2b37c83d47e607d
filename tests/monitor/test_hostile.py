"""Clients that are malformed, slow, silent or too many cost themselves only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aioqemu_loop
from aioqemu_loop import monitor
from aioqemu_loop.monitor import budget, session
from aioqemu_loop.monitor.client import Client
from aioqemu_loop.monitor.command import COMMANDS
from aioqemu_loop.monitor.errors import QMPError

from .conftest import Program

NEGOTIATE = b'{"execute": "qmp_capabilities"}\n'
ARGUMENT_NAMES = sorted({name for command in COMMANDS.values() for name in command.arguments})
# These would do what they are asked to; the rest only reads.
HARMLESS = sorted(set(COMMANDS) - {"task-cancel", "set-poll-params", "query-fdmon", "trace-event-set-state"})

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -(2**63), 2**64, "loop0", "*", "x" * 70000])
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
arguments = st.dictionaries(st.sampled_from(ARGUMENT_NAMES) | st.text(), values, max_size=4) | values
requests = st.fixed_dictionaries(
    {},
    optional={"execute": st.sampled_from(HARMLESS) | values, "arguments": arguments, "id": values, "exec-oob": values},
).map(lambda request: json.dumps(request).encode())
deep = st.integers(1, 3000).flatmap(
    lambda depth: st.sampled_from([b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth, b"]" * depth])
)
broken = st.tuples(requests, st.integers(0, 400), st.binary(max_size=4)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
)
inputs = st.one_of(
    requests, broken, deep, st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode(errors="replace"))
)


class Echo:
    """The service that must not notice."""

    def __init__(self, program):
        async def serve():
            return await asyncio.start_server(self._handle, "127.0.0.1", 0)

        self._program = program
        self._server = program.run(serve())
        self._sock = socket.create_connection(self._server.sockets[0].getsockname(), 15)

    async def _handle(self, reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    def check(self):
        self._sock.sendall(b"still there?")
        assert self._sock.recv(100) == b"still there?"

    def close(self):
        self._sock.close()
        self._program.call(self._server.close)


@pytest.fixture(scope="module")
def service():
    program = Program("auto")
    echo = Echo(program)
    yield program, echo
    echo.close()
    program.run(asyncio.sleep(0.01))
    program.close()


@pytest.fixture(scope="module")
def address(service, tmp_path_factory):
    with monitor.start(tmp_path_factory.mktemp("hostile") / "monitor") as started:
        yield started.address


def connect(address):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(15)
    sock.connect(address)
    return sock


def talk(address, data):
    """Everything that comes back until the monitor closes, which it does after the end of the input at the latest."""
    with connect(address) as sock:
        answers = b""
        with contextlib.suppress(ConnectionError):
            sock.sendall(NEGOTIATE + data + b"\n")
            sock.shutdown(socket.SHUT_WR)
            while received := sock.recv(1 << 20):
                answers += received
    return [json.loads(line) for line in answers.splitlines()]


@given(st.lists(inputs, min_size=10, max_size=10))
@settings(max_examples=100, deadline=None)
def test_a_thousand_hostile_inputs(address, service, texts):
    """Each is an answer, an error or the end of the connection; the next client is served, and the service goes on."""
    for text in texts:
        answers = talk(address, text)
        assert "QMP" in answers[0]
        for answer in answers[1:]:
            assert {"return", "error"} & set(answer)
            if "error" in answer:
                assert set(answer["error"]) == {"class", "desc"}
                assert "internal error" not in answer["error"]["desc"]
    service[1].check()
    assert talk(address, b'{"execute": "query-version"}')[-1].keys() == {"return"}


@given(name=st.sampled_from(sorted(set(COMMANDS) - {"query-fdmon"})), given_arguments=arguments)
@settings(max_examples=150, deadline=None)
def test_wrong_arguments_are_errors(address, name, given_arguments):
    answers = talk(address, json.dumps({"execute": name, "arguments": given_arguments}).encode())
    if answers[2:]:
        assert "return" in answers[2] or "internal error" not in answers[2]["error"]["desc"]


def test_one_that_does_not_read_its_answers_is_not_served_more(watched, client):
    with connect(watched.address) as sock:
        sock.setblocking(False)
        sent = 0
        request = b'{"execute": "query-commands"}' * 100
        sock.send(NEGOTIATE)
        deadline = time.monotonic() + 15
        blocked_since = None
        while time.monotonic() < deadline:
            try:
                sent += sock.send(request)
                blocked_since = None
            except BlockingIOError:
                blocked_since = blocked_since or time.monotonic()
                if time.monotonic() - blocked_since > 0.5:
                    break
                time.sleep(0.01)
        assert blocked_since is not None
        assert sent < 4 << 20
        assert client.execute("query-version")  # others are served


def test_one_that_never_reads_its_answer_is_closed(watched, monkeypatch):
    monkeypatch.setattr(session, "ANSWER_PATIENCE", 0.1)
    with connect(watched.address) as sock:
        sock.sendall(NEGOTIATE)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                sock.sendall(b'{"execute": "query-commands"}' * 100)


def test_one_that_does_not_negotiate_is_closed(watched, monkeypatch):
    monkeypatch.setattr(session, "NEGOTIATION_PATIENCE", 0.05)
    with connect(watched.address) as sock:
        assert sock.recv(4096).startswith(b'{"QMP"')
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(4096) == b""


def test_events_for_one_that_does_not_read_are_counted_then_it_is_closed(watched, program, fdmon, monkeypatch):
    monkeypatch.setattr(session, "EVENT_ROOM", 1000)
    monkeypatch.setattr(session, "MAX_UNREAD", 100)
    with Client(watched.address) as reading, connect(watched.address) as silent:
        silent.sendall(
            NEGOTIATE + b'{"execute": "trace-event-set-state", "arguments": {"name": "fd_*", "enable": true}}\n'
        )
        with silent.makefile("rb") as answers:
            for _ in ("greeting", "qmp_capabilities", "trace-event-set-state"):
                answers.readline()
        a, b = socket.socketpair()
        with a, b:
            deadline = time.monotonic() + 15
            while len(watched._sessions) > 1:
                assert time.monotonic() < deadline
                for _ in range(200):
                    program.call(program.loop.add_reader, a, int)
                    program.call(program.loop.remove_reader, a)
                reading.execute("query-version")


def test_lost_events_are_told_with_the_next(watched, program, fdmon, monkeypatch):
    with Client(watched.address) as client:
        client.execute("trace-event-set-state", {"name": "fdmon_changed", "enable": True})
        monkeypatch.setattr(session, "EVENT_ROOM", -1)
        other = "poll" if fdmon == "epoll" else "epoll"
        program.call(program.loop.context.set_fdmon, other)
        time.sleep(0.2)
        monkeypatch.setattr(session, "EVENT_ROOM", 1 << 20)
        program.call(program.loop.context.set_fdmon, fdmon)
        deadline = time.monotonic() + 15
        while len(client.events) < 2 and time.monotonic() < deadline:
            client.execute("query-version")
        lost, trace = client.events
        assert (lost["event"], lost["data"]) == ("EVENTS_LOST", {"count": 1})
        assert trace["data"]["arguments"]["new"] == fdmon


def test_there_is_a_last_client(tmp_path):
    with monitor.start(tmp_path / "monitor", max_clients=2) as started, Client(started.address) as first:
        with Client(started.address), connect(started.address) as third:
            answer = json.loads(third.makefile("rb").readline())
            assert answer["error"]["desc"] == "The monitor has 2 clients already"
        deadline = time.monotonic() + 15
        while True:  # the second has gone
            try:
                with Client(started.address) as again:
                    assert again.execute("query-version")
                break
            except (OSError, QMPError):
                assert time.monotonic() < deadline
        assert first.execute("query-version")


def flood_of_commands(address, over):
    with Client(address) as client:
        while not over.is_set():
            client.execute("dump-stacks")


def flood_of_empty_lines(address, over):
    with connect(address) as sock:
        sock.sendall(NEGOTIATE)
        sock.settimeout(0.1)
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                sock.sendall(b"\n" * 65536)


def flood_of_clients_with_one_command(address, over):
    while not over.is_set():
        talk(address, b'{"execute": "dump-stacks"}')


def flood_of_connections(address, over):
    while not over.is_set():
        with contextlib.suppress(OSError):  # the queue of those that wait is full
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(0.1)
            with sock:
                sock.connect(address)


def flood_of_trace_events(address, over):
    loop = aioqemu_loop.new_event_loop()
    a, b = socket.socketpair()
    with a, b, connect(address) as sock:
        sock.sendall(NEGOTIATE + b'{"execute": "trace-event-set-state", "arguments": {"name": "*", "enable": true}}\n')
        sock.setblocking(False)
        while not over.wait(0.001):
            for _ in range(20):
                loop.add_reader(a, int)
                loop.remove_reader(a)
            with contextlib.suppress(BlockingIOError):
                sock.recv(1 << 20)
    loop.close()


@pytest.mark.parametrize(
    "floods",
    [
        (flood_of_commands,),
        (flood_of_empty_lines, flood_of_clients_with_one_command, flood_of_clients_with_one_command),
        (flood_of_trace_events,) * 3,
        (flood_of_connections,) * 4,
    ],
)
def test_floods_get_their_share_of_the_processor_only(watched, floods):
    """budget.SHARE of one processor, and a burst."""

    def monitor_cpu_seconds():
        fields = Path(f"/proc/self/task/{watched._thread.thread_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    over = threading.Event()
    threads = [threading.Thread(target=flood, args=(watched.address, over)) for flood in floods]
    started, used = time.monotonic(), monitor_cpu_seconds()
    for thread in threads:
        thread.start()
    time.sleep(2)
    used = monitor_cpu_seconds() - used
    took = time.monotonic() - started
    over.set()
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()
    assert used < budget.BURST + took * budget.SHARE * 2


def test_many_tasks_are_told_as_the_budget_allows(address, service):
    """Others are served between, and no answer has more than a client can want to read."""

    async def make():
        future = program.loop.create_future()
        return future, [program.loop.create_task(wait(future)) for _ in range(6000)]

    async def wait(future):
        await future

    program = service[0]
    future, tasks = program.run(make())
    longest = 0.0
    with Client(address, timeout=30) as many, Client(address) as other:
        with pytest.raises(QMPError, match="'limit' expects"):
            many.execute("query-tasks", {"limit": 100_000})
        found = []

        def ask():
            for _ in range(2):
                found.extend(many.execute("query-tasks", {"limit": 5000}))

        asking = threading.Thread(target=ask)
        asking.start()
        answers = 0
        while asking.is_alive():
            began = time.monotonic()
            other.execute("query-version")
            longest = max(longest, time.monotonic() - began)
            answers += 1
        asking.join()
    assert len(found) >= 10000
    assert answers > 3 and longest < 5
    program.loop.call_soon_threadsafe(future.set_result, None)
    program.run(asyncio.wait(tasks))


def test_a_client_that_goes_in_the_middle(watched, client):
    for data in (b'{"execute": "query-comm', NEGOTIATE + b'{"execute": "query-commands"}' * 50):
        sock = connect(watched.address)
        sock.sendall(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    assert client.execute("query-version")


def test_stopping_with_clients_connected(tmp_path, no_leaks):
    started = monitor.start(tmp_path / "monitor")
    clients = [Client(started.address) for _ in range(3)]
    started.stop()
    started.stop()
    assert not started.running
    for client in clients:
        with pytest.raises(OSError):
            client.execute("query-version")
        client.close()


def test_nothing_is_left(tmp_path, no_leaks):
    before = set(threading.enumerate())
    for _ in range(3):
        with monitor.start(tmp_path / "monitor") as started, Client(started.address) as client:
            client.execute("query-fdmon")
            client.execute("trace-event-set-state", {"name": "*", "enable": True})
    assert set(threading.enumerate()) == before
    loop = aioqemu_loop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
