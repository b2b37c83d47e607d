"""In which contextvars context a protocol is called."""

import asyncio
import contextvars
import socket
import sys

import pytest

seen = contextvars.ContextVar("seen", default="nothing")
# From 3.15 on all calls to a protocol share one context; before that connection_made and connection_lost get a copy.
ONE_CONTEXT = sys.version_info >= (3, 15)


class Noter(asyncio.Protocol):
    """Notes what it finds in the variable, and leaves its own mark there."""

    def __init__(self):
        self.found = []
        self.ended = asyncio.get_running_loop().create_future()

    def note(self, name):
        self.found.append((name, seen.get()))
        seen.set(name)

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data):
        self.note("data_received")

    def connection_lost(self, exc):
        self.note("connection_lost")
        self.ended.set_result(None)


def expected(origin):
    return [
        ("connection_made", origin),
        ("data_received", "connection_made" if ONE_CONTEXT else origin),
        ("data_received", "data_received"),
        ("connection_lost", "data_received"),
    ]


async def talk(protocol, peer):
    """Two pieces of data in two turns, then the end."""
    loop = asyncio.get_running_loop()
    for count in (2, 3):
        peer.send(b"x")
        while len(protocol.found) < count:
            await asyncio.sleep(0)
    peer.close()
    await protocol.ended
    assert loop is asyncio.get_running_loop()


@pytest.fixture
def peer_pair():
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    with ours, peer:
        yield ours, peer


def test_a_client_protocol(run, peer_pair):
    ours, peer = peer_pair

    async def main():
        seen.set("creator")
        _, protocol = await asyncio.get_running_loop().create_connection(Noter, sock=ours)
        seen.set("changed later")
        await talk(protocol, peer)
        assert protocol.found == expected("creator")
        assert seen.get() == "changed later"

    run(main())


def test_connections_of_a_server_do_not_see_each_other(run):
    protocols = []

    def factory():
        protocols.append(Noter())
        return protocols[-1]

    async def main():
        seen.set("server")
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        seen.set("changed later")
        for count in (1, 2):
            with socket.create_connection(server.sockets[0].getsockname()) as client:
                while len(protocols) < count or not protocols[-1].found:
                    await asyncio.sleep(0)
                await talk(protocols[-1], client)
        server.close()
        await server.wait_closed()
        for protocol in protocols:
            assert protocol.found == expected("server")

    run(main())


def test_what_the_protocol_factory_sets_is_seen_by_the_connection(run):
    made = []

    def factory():
        seen.set("factory")
        made.append(Noter())
        return made[0]

    async def main():
        server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            while not made or not made[0].found:
                await asyncio.sleep(0)
            await talk(made[0], client)
        server.close()
        await server.wait_closed()
        assert made[0].found == expected("factory")

    run(main())
