"""query-busiest: what a loop spends its time in."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aioqemu_loop.monitor.client import Client

MODULE = __name__


def spin(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def heavy():
    while True:
        spin(0.002)
        await asyncio.sleep(0.001)


async def light():
    while True:
        await asyncio.sleep(0.001)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        spin(0.0005)
        self.transport.write(data)


class Ping(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"x")

    def data_received(self, data):
        self.transport.write(data)


async def serve_echo():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Ping, *server.sockets[0].getsockname())
    return server, transport


def test_coroutines_protocols_and_functions(program, ask, client):
    program.start(heavy())
    program.start(light())
    server, transport = program.run(serve_echo())

    ticking = [True]

    def tick():
        if ticking:
            program.loop.call_later(0.001, tick)

    program.loop.call_soon_threadsafe(tick)
    found = ask("query-busiest", milliseconds=300)
    assert [entry["seconds"] for entry in found] == sorted((entry["seconds"] for entry in found), reverse=True)
    names = {entry["callback"]: entry for entry in found}
    assert {"heavy", "light", f"{MODULE}.Echo", f"{MODULE}.Ping"} <= set(names)
    assert any(name.endswith("tick") for name in names)
    assert names["heavy"]["seconds"] / names["heavy"]["calls"] >= 0.002
    assert names[f"{MODULE}.Echo"]["seconds"] / names[f"{MODULE}.Echo"]["calls"] >= 0.0005
    assert sum(entry["share"] for entry in found) <= 1.05
    assert len(ask("query-busiest", limit=1, milliseconds=20)) == 1
    program.call(transport.abort)
    program.call(server.close)
    ticking.clear()
    program.run(asyncio.sleep(0.01))


def test_nothing_is_timed_before_or_after(program, ask):
    assert program.loop._callback_listeners == ()
    ask("query-busiest", milliseconds=1)
    assert program.loop._callback_listeners == ()


def test_one_whose_client_goes_ends_too(program, watched):
    with Client(watched.address) as client:
        client._sock.sendall(b'{"execute": "query-busiest", "arguments": {"milliseconds": 200}}\n')
    deadline = time.monotonic() + 15
    while program.loop._callback_listeners == ():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    while program.loop._callback_listeners:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_clients_at_once(program, watched, loop_id):
    program.start(heavy())
    found = []

    def ask_too():
        with Client(watched.address) as other:
            found.append(other.execute("query-busiest", {"loop": loop_id, "milliseconds": 200}))

    threads = [threading.Thread(target=ask_too) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer[0]["callback"] for answer in found] == ["heavy", "heavy"]


@pytest.mark.parametrize("slow", [0.001, 10])
def test_debug_mode_goes_on_telling_what_is_slow(program, ask, caplog, slow):
    def set_debug():
        program.loop.set_debug(True)
        program.loop.slow_callback_duration = slow

    program.call(set_debug)
    program.start(heavy())
    found = ask("query-busiest", milliseconds=100)
    program.call(program.loop.set_debug, False)
    assert found[0]["callback"] == "heavy"
    assert ("heavy" in caplog.text) == (slow < 1)


def test_callables_that_are_the_programs_code_are_not_asked(program, ask):
    class Callable:
        def __call__(self):
            program.loop.call_later(0.001, self)

        def __getattr__(self, name):
            raise AssertionError(name)

        __repr__ = __hash__ = __eq__ = None

    program.loop.call_soon_threadsafe(Callable())
    assert any(entry["callback"].endswith("Callable") for entry in ask("query-busiest", milliseconds=50))
