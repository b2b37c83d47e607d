"""Each command, against a program that runs on each backend."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading

import pytest

import aioqemu_loop
from aioqemu_loop.monitor.client import Client
from aioqemu_loop.monitor.errors import QMPError
from aioqemu_loop.monitor.probes import TRACE_EVENTS


class Silent(asyncio.Protocol):
    """Stops reading at the first data. `made`: a future that gets the transport then."""

    def __init__(self, made):
        self.made = made

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.made.done():
            self.transport.pause_reading()
            self.made.set_result(self.transport)


def test_query_commands_tells_arguments_and_help(client):
    commands = {command["name"]: command for command in client.execute("query-commands")}
    assert {"query-version", "query-tasks", "dump-stacks", "task-cancel", "qmp_capabilities"} <= set(commands)
    assert all(command["help"] for command in commands.values())
    assert {"name": "task", "type": "string", "optional": False} in commands["task-cancel"]["arguments"]


def test_query_version(client):
    answer = client.execute("query-version")
    assert set(answer["qemu"]) == {"major", "minor", "micro"}
    assert aioqemu_loop.__version__ in answer["package"]


def test_query_loops(program, fdmon, ask, loop_id):
    program.start(asyncio.sleep(60))
    (found,) = ask("query-loops")
    ident, native = program.call(lambda: (threading.get_ident(), threading.get_native_id()))
    assert ident != threading.get_ident()
    assert found == {
        "id": loop_id,
        "running": True,
        "thread-id": native,
        "thread": "program",
        "iothread": None,
        "fdmon": fdmon,
        "debug": False,
        "g-source": False,
        "tasks": 1,
        "poll-max-ns": program.loop.context.poll_max_ns,
        "stalled": None,
    }


def test_the_monitors_own_loop_is_left_out(client, watched):
    assert "aioqemu-monitor" not in [loop["iothread"] for loop in client.execute("query-loops")]
    assert "aioqemu-monitor" not in [thread["id"] for thread in client.execute("query-iothreads")]


def test_a_loop_that_does_not_run(client, loop):
    found = client.execute("query-loops")[-1]
    assert (found["running"], found["thread-id"], found["thread"]) == (False, None, None)


@pytest.mark.parametrize("command", ["query-loops", "query-tasks", "query-handlers", "query-timers", "query-fdmon"])
def test_a_loop_that_is_not_there(client, command):
    with pytest.raises(QMPError, match="Loop 'nix' not found"):
        client.execute(command, {"loop": "nix"})


def test_query_iothreads_has_qemus_fields(fdmon, client):
    with aioqemu_loop.IOThread("disk", fdmon=fdmon, poll_max_ns=5000, poll_grow=3, poll_shrink=4) as thread:
        (found,) = [entry for entry in client.execute("query-iothreads") if entry["id"] == "disk"]
        loop = found.pop("loop")
        assert found == {
            "id": "disk",
            "thread-id": thread.thread_id,
            "poll-max-ns": 5000,
            "poll-grow": 3,
            "poll-shrink": 4,
            "aio-max-batch": 0,
        }
        (entry,) = client.execute("query-loops", {"loop": loop})
        assert (entry["iothread"], entry["fdmon"]) == ("disk", fdmon)
    assert not [entry for entry in client.execute("query-iothreads") if entry["id"] == "disk"]


def test_query_fdmon_tells_why_others_are_not_there(program, fdmon, ask, monkeypatch):
    reasons = {"io_uring": None, "epoll": None, "poll": "not today", "liburing": "no package"}
    monkeypatch.setattr("aioqemu_loop.monitor.commands.loops.fdmons", lambda: reasons)
    (found,) = ask("query-fdmon")
    assert found["fdmon"] == fdmon
    assert {other["name"]: other["reason"] for other in found["others"]} == {
        name: reason for name, reason in reasons.items() if name != fdmon
    }


def test_query_handlers(program, ask):
    a, b = socket.socketpair()
    try:
        program.call(program.loop.add_reader, a, test_query_handlers)
        program.call(program.loop.add_writer, a, print)
        (found,) = [entry for entry in ask("query-handlers") if entry["fd"] == a.fileno()]
        assert found["kind"] == "socket"
        assert found["file"] == os.readlink(f"/proc/self/fd/{a.fileno()}")
        assert (sorted(found["events"]), found["owner"]) == (["in", "out"], None)
        assert found["reader"].endswith("test_commands.test_query_handlers")
        assert found["writer"] == "builtins.print"
        program.call(program.loop.remove_writer, a)
        program.call(program.loop.remove_reader, a)
        assert not [entry for entry in ask("query-handlers") if entry["fd"] == a.fileno()]
    finally:
        a.close()
        b.close()


def test_query_transports(program, ask):
    async def serve():
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        server = await loop.create_server(lambda: Silent(made), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address)
        transport.write(b"x" * (8 << 20))
        accepted = await made
        return server, address, transport, accepted

    server, address, transport, accepted = program.run(serve())
    address = f"{address[0]}:{address[1]}"
    found = {entry["kind"]: entry for entry in ask("query-transports") if entry["local"] == address}
    assert found["tcp-listener"]["peer"] is None
    assert found["tcp"]["reading-paused"]
    (client,) = [entry for entry in ask("query-transports") if entry["peer"] == address]
    assert client["kind"] == "tcp" and client["protocol"] == "asyncio.protocols.Protocol"
    assert 0 < client["buffered"] < 8 << 20
    assert client["writing-paused"] and not client["reading-paused"] and client["tls"] is None
    assert ask("query-transports", limit=1) == [client]
    program.call(transport.abort)
    program.call(accepted.abort)
    program.call(server.close)


def test_query_transports_of_tls(program, ask, tls):
    async def serve():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=tls[0])
        address = server.sockets[0].getsockname()
        transport, _ = await loop.create_connection(asyncio.Protocol, *address, ssl=tls[1], server_hostname="localhost")
        return server, address, transport

    server, address, transport = program.run(serve())
    found = [entry for entry in ask("query-transports") if entry["peer"] == f"{address[0]}:{address[1]}"]
    assert [(entry["kind"], entry["tls"]["version"]) for entry in found] == [("tcp", "TLSv1.3")]
    assert found[0]["protocol"] == "asyncio.protocols.Protocol"
    program.call(transport.abort)
    program.call(server.close)


def test_query_transports_of_pipes_datagrams_and_unix_sockets(program, ask, tmp_path):
    read, write = os.pipe()

    async def open_all():
        loop = asyncio.get_running_loop()
        reading, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read, "rb", buffering=0))
        writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", buffering=0))
        datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        made = loop.create_future()
        server = await loop.create_unix_server(lambda: Silent(made), str(tmp_path / "served"))
        unix, _ = await loop.create_unix_connection(asyncio.Protocol, str(tmp_path / "served"))
        unix.write(b"x")
        return [reading, writing, datagrams, server, unix, await made]

    opened = program.run(open_all())
    kinds = [entry["kind"] for entry in ask("query-transports")]
    assert {"read-pipe", "write-pipe", "udp", "unix-listener", "unix"} <= set(kinds)
    for one in opened:
        program.call(one.close)


def test_asking_for_transports_sends_nothing(program, ask):
    """get_write_buffer_size() would; that is for the loop's own thread."""
    a, b = socket.socketpair()
    b.setblocking(False)

    async def connect():
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=a)
        return transport

    transport = program.run(connect())
    written, over = threading.Event(), threading.Event()

    def write_and_wait():
        transport.write(b"hello")
        written.set()
        over.wait(15)

    program.loop.call_soon_threadsafe(write_and_wait)
    assert written.wait(15)
    try:
        sent_already = b.recv(100, socket.MSG_PEEK)
    except BlockingIOError:
        sent_already = b""
    (found,) = [entry for entry in ask("query-transports") if entry["fd"] == a.fileno()]
    assert found["buffered"] == 5 - len(sent_already)
    over.set()
    program.call(transport.close)
    b.settimeout(15)
    assert b.recv(100) == b"hello"
    b.close()


def test_query_timers(program, ask):
    program.call(program.loop.call_later, 1000, print)
    program.call(program.loop.call_later, 500, test_query_timers)
    found = ask("query-timers")
    assert [(timer["kind"], timer["callback"].rpartition(".")[2]) for timer in found] == [
        ("TimerHandle", "test_query_timers"),
        ("TimerHandle", "print"),
    ]
    assert 490 < found[0]["seconds"] <= 500 < found[1]["seconds"] <= 1000
    assert ask("query-timers", limit=1) == [{**found[0], "seconds": pytest.approx(found[0]["seconds"], abs=5)}]


def test_none_of_the_programs_code_is_called(program, ask):
    """Names of callbacks that are objects with code for attributes, properties and descriptions."""
    asked = []

    class Callback:
        def __call__(self, *args):
            pass

        def method(self, *args):
            pass

        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

        def __repr__(self):
            asked.append("repr")
            return ""

        def __bool__(self):
            asked.append("bool")
            return False

        @property
        def __class__(self):
            asked.append("class")
            return asyncio.Task

    callback = Callback()
    for one in (callback, callback.method, functools.partial(callback, callback)):
        program.call(program.loop.call_later, 1000, one)
        program.start(asyncio.sleep(1000)).add_done_callback(one)
    read_end, write_end = os.pipe()
    program.call(program.loop.add_reader, read_end, callback)
    asked.clear()
    names = [timer["callback"].rpartition(".")[2] for timer in ask("query-timers") if "Callback" in timer["callback"]]
    assert names == ["Callback", "method", "Callback"]
    assert any("Callback" in (handler["reader"] or "") for handler in ask("query-handlers"))
    ask("query-tasks")
    assert asked == []
    program.call(program.loop.remove_reader, read_end)
    os.close(read_end)
    os.close(write_end)


def test_query_metrics(program, ask, loop_id):
    (before,) = ask("query-metrics")
    for _ in range(10):
        program.call(int)
    (after,) = ask("query-metrics")
    assert after["loop"] == loop_id
    assert after["metrics"]["callbacks"] >= before["metrics"]["callbacks"] + 10
    assert set(after["metrics"]) == set(type(program.loop.metrics()).__dataclass_fields__)


def test_set_poll_params_of_a_loop(program, ask):
    assert ask("set-poll-params", **{"poll-max-ns": 1234, "poll-grow": 5}) == {}
    assert program.loop.context.poll_max_ns == 1234
    ask("set-poll-params", **{"poll-max-ns": 0})
    assert ask("query-loops")[0]["poll-max-ns"] == 0
    from aioqemu_loop.context import inspection

    assert inspection.poll_params(program.loop.context) == (0, 5, 0)


def test_set_poll_params_of_an_iothread(fdmon, client):
    with aioqemu_loop.IOThread("disk", fdmon=fdmon, poll_grow=3) as thread:
        client.execute("set-poll-params", {"iothread": "disk", "poll-max-ns": 77, "poll-shrink": 2})
        assert (thread.poll_max_ns, thread.poll_grow, thread.poll_shrink) == (77, 3, 2)
        loop = client.execute("query-iothreads")[-1]["loop"]
        client.execute("set-poll-params", {"loop": loop, "poll-max-ns": 78})
        assert thread.poll_max_ns == 78 == thread.context.poll_max_ns


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "Exactly one of"),
        ({"loop": "a", "iothread": "b"}, "Exactly one of"),
        ({"iothread": "nix"}, "IOThread 'nix' not found"),
        ({"loop": "nix", "poll-max-ns": -1}, "expects a value from 0"),
        ({"loop": "nix", "poll-max-ns": 2**63}, "expects a value from 0"),
        ({"loop": "nix", "poll-max-ns": True}, "expected: integer"),
        ({"loop": "nix", "poll-max-ns": 1.5}, "expected: integer"),
        ({"loop": 1}, "expected: string"),
        ({"loop": None}, "expected: string"),
    ],
)
def test_set_poll_params_refuses(client, arguments, message):
    with pytest.raises(QMPError, match=message):
        client.execute("set-poll-params", arguments)


def test_dump_stacks_of_all_threads(program, client):
    begun, over = threading.Event(), threading.Event()

    def wait_in_here():
        begun.set()
        over.wait(15)

    thread = threading.Thread(target=wait_in_here, name="waiting")
    thread.start()
    begun.wait(15)
    try:
        found = {entry["name"]: entry for entry in client.execute("dump-stacks")["threads"]}
    finally:
        over.set()
        thread.join()
    assert {"waiting", "program", "MainThread", "aioqemu-monitor"} <= set(found)
    assert found["waiting"]["thread-id"] == thread.native_id
    functions = [frame["function"].rpartition(".")[2] for frame in found["waiting"]["stack"]]
    assert "wait_in_here" in functions and functions[-1] == "wait"
    (frame,) = [frame for frame in found["waiting"]["stack"] if frame["function"].endswith("wait_in_here")]
    assert frame["text"] == "over.wait(15)" and frame["file"] == __file__
    assert "tasks" not in client.execute("dump-stacks", {"tasks": False})


def test_dump_stacks_with_tasks(program, client):
    program.start(asyncio.sleep(60), name="sleeper")
    (found,) = [task for task in client.execute("dump-stacks", {"tasks": True})["tasks"] if task["name"] == "sleeper"]
    assert [frame["function"] for frame in found["stack"]] == ["sleep"]


def test_trace_events(program, fdmon, ask, client, next_event, loop_id):
    assert {event["name"] for event in client.execute("trace-event-get-state", {"name": "*"})} == set(TRACE_EVENTS)
    client.execute("trace-event-set-state", {"name": "fdmon_ch*", "enable": True})
    assert client.execute("trace-event-get-state", {"name": "fdmon_changed"}) == [
        {"name": "fdmon_changed", "state": "enabled"}
    ]
    other = "poll" if fdmon == "epoll" else "epoll"
    program.call(program.loop.context.set_fdmon, other)
    event = next_event("TRACE")
    assert event["data"] == {"name": "fdmon_changed", "loop": loop_id, "arguments": {"old": fdmon, "new": other}}
    assert set(event["timestamp"]) == {"seconds", "microseconds"}
    client.execute("trace-event-set-state", {"name": "*", "enable": False})
    program.call(program.loop.context.set_fdmon, fdmon)
    assert {event["state"] for event in client.execute("trace-event-get-state", {"name": "*"})} == {"disabled"}
    assert not client.events


def test_a_tracer_of_the_programs_own_stays_while_no_client_wants_any(program, watched):
    told = []
    program.call(program.loop.context.set_tracer, lambda name, details: told.append(name))
    with Client(watched.address) as client:
        client.execute("trace-event-set-state", {"name": "*", "enable": False})
    a, b = socket.socketpair()
    with a, b:
        program.call(program.loop.add_reader, a, int)
        program.call(program.loop.remove_reader, a)
    assert "fd_handler_added" in told
    program.call(program.loop.context.set_tracer, None)


def test_unknown_trace_events(client):
    for command, arguments in (("trace-event-get-state", {}), ("trace-event-set-state", {"enable": True})):
        with pytest.raises(QMPError, match="unknown event 'nix\\*'"):
            client.execute(command, {"name": "nix*", **arguments})
