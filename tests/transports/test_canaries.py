"""No byte of one connection is ever seen by another, though all share buffers: the ring's, the context's, OpenSSL's.

Each connection sends one value of a byte only, so that any other one is somebody else's. What was received is kept, and
looked at again at the end: a buffer that was handed over too early would have changed by then. Meanwhile connections
are aborted, closed, and reset with output queued and input unread, and others take their numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct

import pytest

HOST = "127.0.0.1"
CONNECTIONS = 25
ROUNDS = 2
UNTOUCHED = 0xEE  # no connection's
SIZES = [1, 3, 100, 4095, 4096, 4097, 16384, 40_000]


class Ours:
    """Of the server's side. What the first byte says is the value of all."""

    def __init__(self, seen, source):
        self.seen = seen
        self.source = source
        self.kept = []
        self.value = None
        seen.append(self)

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        pass

    def eof_received(self):
        pass

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    def took(self, data):
        if self.value is None:
            self.value = data[0]
        self.kept.append(data)
        self.check(data)
        self.transport.write(data)
        self.disturb()

    def check(self, data):
        assert data.count(self.value) == len(data), f"{self.value} sees {set(data) - {self.value}}"

    def disturb(self):
        chance = self.source.random()
        if chance < 0.02:
            self.transport.abort()
        elif chance < 0.04:
            self.transport.close()
        elif chance < 0.10 and self.transport.is_reading():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.002, self.transport.resume_reading)


class Plain(Ours, asyncio.Protocol):
    def data_received(self, data):
        self.took(data)


class Buffered(Ours, asyncio.BufferedProtocol):
    """One buffer for all; beyond what was received it is as it was."""

    buffer = bytearray([UNTOUCHED]) * 65536

    def get_buffer(self, sizehint):
        size = self.source.choice(SIZES)
        Buffered.buffer[:] = bytes([UNTOUCHED]) * 65536
        return memoryview(Buffered.buffer)[:size]

    def buffer_updated(self, count):
        assert not Buffered.buffer[count:].strip(bytes([UNTOUCHED]))
        self.took(bytes(Buffered.buffer[:count]))


class Client(asyncio.Protocol):
    def __init__(self, value, source):
        self.value = value
        self.source = source
        self.kept = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        self.left = 12
        self.send()

    def send(self):
        if not self.left or self.transport.is_closing():
            return
        self.left -= 1
        self.transport.write(bytes([self.value]) * self.source.choice(SIZES))
        chance = self.source.random()
        if chance < 0.03:
            self.transport.abort()
        elif chance < 0.05 and (sock := self.transport.get_extra_info("socket")) is not None:
            # The kernel sends RST, and drops what is queued on both sides.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        elif not self.left:
            asyncio.get_running_loop().call_later(0.05, self.transport.close)
        else:
            asyncio.get_running_loop().call_soon(self.send)

    def data_received(self, data):
        self.kept.append(data)
        assert data.count(self.value) == len(data)

    def connection_lost(self, exc):
        self.lost.set_result(None)


def all_values_hold(protocols):
    for each in protocols:
        for data in each.kept:
            assert data.count(each.value) == len(data)
    return sum(len(data) for each in protocols for data in each.kept)


@pytest.mark.parametrize("kind", [Plain, Buffered])
@pytest.mark.parametrize("with_tls", [False, True], ids=["tcp", "tls"])
def test_streams(loop, kind, with_tls, request):
    contexts = request.getfixturevalue("tls") if with_tls else (None, None)
    source = random.Random(7)
    failures = []
    # In TLS a connection that is cut off is told to the handler where it is an error of the handshake.
    loop.set_exception_handler(lambda _, details: failures.append(details))

    async def main():
        seen, clients = [], []
        server = await loop.create_server(lambda: kind(seen, source), HOST, 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()
        options = {"ssl": contexts[1], "server_hostname": "localhost"} if with_tls else {}
        for _ in range(ROUNDS):
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda value=value: Client(value, source), *address, **options)
                    for value in range(1, CONNECTIONS + 1)
                )
            )
            clients += [client for _, client in made]
            await asyncio.wait_for(asyncio.gather(*(client.lost for _, client in made)), 40)
        server.close()
        for each in seen:
            each.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)
        assert all_values_hold(clients) > 500_000
        assert all_values_hold([each for each in seen if each.value is not None]) > 500_000

    loop.run_until_complete(main())
    assert not failures


def test_sock_calls_write_what_has_come_and_no_more(loop):
    async def main():
        pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
        for sock in itertools.chain(*pairs):
            sock.setblocking(False)

        async def talk(value, ours, theirs):
            source = random.Random(value)
            room = bytearray([UNTOUCHED]) * 5000
            for _ in range(20):
                size = source.randrange(1, 5000)
                await loop.sock_sendall(theirs, bytes([value]) * size)
                got = 0
                while got < size:
                    room[:] = bytes([UNTOUCHED]) * 5000
                    if source.random() < 0.5:
                        count = await loop.sock_recv_into(ours, room)
                        assert not room[count:].strip(bytes([UNTOUCHED]))
                        data = bytes(room[:count])
                    else:
                        data = await loop.sock_recv(ours, 1 + source.randrange(5000))
                    got += len(data)
                    assert data == bytes([value]) * len(data)
                if source.random() < 0.3:  # one that is cancelled takes nothing with it
                    task = asyncio.ensure_future(loop.sock_recv(ours, 100))
                    await asyncio.sleep(0)
                    task.cancel()

        await asyncio.gather(*(talk(value, *each) for value, each in enumerate(pairs, 1)))
        for sock in itertools.chain(*pairs):
            sock.close()

    loop.run_until_complete(main())


def test_datagrams(loop):
    """Long ones and short ones come in turn into the same memory."""

    class Receiver(asyncio.DatagramProtocol):
        def __init__(self):
            self.kept = []

        def datagram_received(self, data, address):
            self.kept.append((data, address))

    async def main():
        transport, receiver = await loop.create_datagram_endpoint(Receiver, local_addr=(HOST, 0))
        address = transport.get_extra_info("sockname")
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
        source = random.Random(3)
        sent = []
        for sender in senders:
            sender.bind((HOST, 0))
        for _ in range(30):
            for value, sender in enumerate(senders, 1):
                data = bytes([value]) * source.choice([0, 1, 2, 700, 1472, 9000])
                sender.sendto(data, address)
                sent.append((data, sender.getsockname()))
            while len(receiver.kept) < len(sent):
                await asyncio.sleep(0)
        assert receiver.kept == sent
        for sender in senders:
            sender.close()
        transport.close()

    loop.run_until_complete(asyncio.wait_for(main(), 20))
