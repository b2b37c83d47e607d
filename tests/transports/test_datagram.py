"""Datagram endpoints: what is sent arrives, whole and in order; addresses; errors go where asyncio sends them."""

import asyncio
import contextlib
import contextvars
import errno
import gc
import itertools
import os
import socket
import sys

import pytest

FAMILIES = ("v4", "v6", "path", "abstract")
LOOPBACK = {"v4": "127.0.0.1", "v6": "::1"}
SENDS_EMPTY = sys.version_info >= (3, 13)
numbers = itertools.count()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def new_address(tmp_path):
    """new_address(family) -> an address that a socket can be bound to."""

    def make(family):
        if family == "path":
            return str(tmp_path / f"{next(numbers)}")
        if family == "abstract":
            return f"\0aioqemu-test-{os.getpid()}-{next(numbers)}"
        return (LOOPBACK[family], 0)

    return make


def new_socket(family):
    kind = {"v4": socket.AF_INET, "v6": socket.AF_INET6}.get(family, socket.AF_UNIX)
    return socket.socket(kind, socket.SOCK_DGRAM)


@pytest.fixture
def bound(new_address):
    """bound(family) -> a plain bound socket with a timeout, closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(family):
            sock = stack.enter_context(new_socket(family))
            sock.bind(new_address(family))
            sock.settimeout(15)
            return sock

        yield make


@pytest.fixture
def listening(bound, endpoint):
    """await listening(family, protocol) -> (transport, its address)."""

    async def make(family, protocol):
        sock = bound(family)
        transport = await endpoint(protocol, sock=sock)
        return transport, sock.getsockname()

    return make


async def end(*protocols):
    """Close what is open."""
    for protocol in protocols:
        protocol.transport.close()
        await protocol.until_lost()
        assert protocol.lost is None


class TestExchange:
    def test_question_and_answer(self, run, family, datagram_recorder, listening, bound):
        async def main():
            server = datagram_recorder(datagram_received=lambda self, data: self.transport.sendto(b"re: " + data, peer))
            _, address = await listening(family, server)
            client = bound(family)
            peer = client.getsockname()
            client.sendto(b"hello", address)
            await server.until_count(1)
            assert server.datagrams == [(b"hello", peer)]
            assert client.recvfrom(100) == (b"re: hello", address)
            await end(server)

        run(main())

    def test_a_burst_arrives_whole_and_in_order(self, run, family, datagram_recorder, listening, bound):
        """More than one batch of the transport, with sizes all over."""
        payloads = [f"{i}:".encode() + bytes([i]) * (i * 37 % 500) for i in range(100)]

        async def main():
            protocol = datagram_recorder()
            _, address = await listening(family, protocol)
            client = bound(family)
            client.setblocking(False)
            for payload in payloads:
                while True:
                    with contextlib.suppress(BlockingIOError):  # a Unix receiver has room for few
                        client.sendto(payload, address)
                        break
                    await asyncio.sleep(0)
            await protocol.until_count(len(payloads))
            assert protocol.contents == payloads
            assert {addr for _, addr in protocol.datagrams} == {client.getsockname()}
            await end(protocol)

        run(main())

    def test_what_waits_when_the_endpoint_is_made_is_read(self, run, datagram_recorder, endpoint):
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        payloads = [bytes([i]) * i for i in range(1, 101)]

        async def main():
            for payload in payloads:
                peer.send(payload)
            protocol = datagram_recorder()
            await endpoint(protocol, sock=ours)
            await protocol.until_count(100)
            assert protocol.contents == payloads
            await end(protocol)

        with peer:
            run(main())

    @pytest.mark.parametrize("size", [1, 1500, 9000, 65507])
    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_udp_of_every_size(self, run, family, size, datagram_recorder, listening):
        blob = os.urandom(size)

        async def main():
            one, other = datagram_recorder(), datagram_recorder()
            sender, address = await listening(family, one)
            _, target = await listening(family, other)
            for _ in range(3):
                sender.sendto(blob, target)
            await other.until_count(3)
            assert other.datagrams == [(blob, address)] * 3
            await end(one, other)

        run(main())

    def test_200_kilobytes_over_a_unix_socket(self, run, datagram_recorder, endpoint):
        blob = os.urandom(200_000)

        async def main():
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for sock in (one, other):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            protocol = datagram_recorder()
            await endpoint(protocol, sock=one)
            for _ in range(5):
                other.send(blob)
            await protocol.until_count(5)
            assert protocol.contents == [blob] * 5
            await end(protocol)
            other.close()

        run(main())

    def test_what_is_longer_than_256_kilobytes_is_cut(self, run, datagram_recorder, endpoint):
        blob = os.urandom(300_000)

        async def main():
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            protocol = datagram_recorder()
            await endpoint(protocol, sock=one)
            other.send(blob)
            other.send(b"next")
            await protocol.until_count(2)
            assert protocol.contents == [blob[: 256 * 1024], b"next"]
            await end(protocol)
            other.close()

        run(main())

    def test_empty_datagrams_are_received(self, run, family, datagram_recorder, listening, bound):
        async def main():
            protocol = datagram_recorder()
            _, address = await listening(family, protocol)
            client = bound(family)
            for payload in (b"", b"1", b""):
                client.sendto(payload, address)
            await protocol.until_count(3)
            assert protocol.contents == [b"", b"1", b""]
            await end(protocol)

        run(main())

    def test_empty_datagrams_are_sent_from_3_13_on(self, run, family, datagram_recorder, listening):
        async def main():
            one, other = datagram_recorder(), datagram_recorder()
            sender, _ = await listening(family, one)
            _, target = await listening(family, other)
            for payload in (b"", bytearray(), b"end"):
                sender.sendto(payload, target)
            await other.until(lambda: b"end" in other.contents)
            assert other.contents == ([b"", b"", b"end"] if SENDS_EMPTY else [b"end"])
            await end(one, other)

        run(main())

    @pytest.mark.parametrize(
        "data",
        [b"bytes", bytearray(b"bytearray"), memoryview(b"view"), memoryview(bytearray(b"-mutable-"))[1:-1]],
        ids=["bytes", "bytearray", "memoryview", "slice"],
    )
    def test_every_kind_of_bytes(self, run, data, datagram_recorder, listening):
        async def main():
            one, other = datagram_recorder(), datagram_recorder()
            sender, _ = await listening("v4", one)
            _, target = await listening("v4", other)
            sender.sendto(data, target)
            await other.until_count(1)
            assert other.contents == [bytes(data)]
            await end(one, other)

        run(main())

    @pytest.mark.parametrize("data", ["text", None, 7, [1]])
    def test_what_is_no_bytes_is_refused(self, run, data, datagram_recorder, listening):
        async def main():
            protocol = datagram_recorder()
            transport, address = await listening("v4", protocol)
            with pytest.raises(TypeError, match=r"^data argument must be a bytes-like object, not '\w+'$"):
                transport.sendto(data, address)
            assert not transport.is_closing()
            await end(protocol)

        run(main())

    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_many_sockets(self, run, family, datagram_recorder, listening):
        """A ring of fifty: each passes on what it gets."""
        count, rounds = 50, 5

        async def main():
            protocols = [datagram_recorder() for _ in range(count)]
            addresses = [(await listening(family, protocol))[1] for protocol in protocols]
            for i, protocol in enumerate(protocols):
                target = addresses[(i + 1) % count]
                protocol.hooks["datagram_received"] = lambda self, data, target=target: (
                    int(data) and self.transport.sendto(b"%d" % (int(data) - 1), target)
                )
            protocols[0].transport.sendto(b"%d" % (count * rounds), addresses[1])
            await protocols[1].until_count(rounds + 1)
            assert [len(protocol.datagrams) for protocol in protocols] == [rounds, rounds + 1] + [rounds] * (count - 2)
            await end(*protocols)

        run(main())

    def test_netlink_and_other_families(self, run, datagram_recorder, endpoint):
        if not hasattr(socket, "AF_NETLINK"):
            pytest.skip("no netlink")
        request = b"\x14\0\0\0\x12\0\x01\x03\x01\0\0\0" + bytes(8)  # list the network devices

        async def main():
            protocol = datagram_recorder()
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
            sock.bind((0, 0))
            name = sock.getsockname()
            transport = await endpoint(protocol, sock=sock)
            assert transport.get_extra_info("sockname") == name
            transport.sendto(request, (0, 0))
            await protocol.until_count(1)
            assert protocol.datagrams[0][1] == (0, 0)
            assert protocol.datagrams[0][0]
            await end(protocol)

        run(main())


class TestConnected:
    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_remote_addr_connects(self, run, family, datagram_recorder, endpoint, bound):
        peer = bound(family)
        address = peer.getsockname()

        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, remote_addr=address[:2])
            assert transport.get_extra_info("peername") == address
            transport.sendto(b"one")
            transport.sendto(b"two", None)
            transport.sendto(b"three", address)
            ours = transport.get_extra_info("sockname")
            assert [peer.recvfrom(10) for _ in range(3)] == [(b"one", ours), (b"two", ours), (b"three", ours)]
            stranger = bound(family)
            stranger.sendto(b"stranger", ours)
            peer.sendto(b"peer", ours)
            await protocol.until_count(1)
            assert protocol.datagrams == [(b"peer", address)]
            await end(protocol)

        run(main())

    @pytest.mark.parametrize("family", ["v4", "v6", "path"])
    def test_another_address_is_refused(self, run, family, datagram_recorder, endpoint, bound):
        peer = bound(family)
        address = peer.getsockname()
        kind = {"family": socket.AF_UNIX} if family == "path" else {}

        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, remote_addr=address if kind else address[:2], **kind)
            other = "/elsewhere" if kind else (address[0], 1)
            with pytest.raises(ValueError, match=r"^Invalid address: must be None or ") as info:
                transport.sendto(b"x", other)
            assert str(info.value) == f"Invalid address: must be None or {address}"
            transport.sendto(b"y")
            assert peer.recv(10) == b"y"
            await end(protocol)

        run(main())

    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_local_and_remote(self, run, family, datagram_recorder, endpoint, bound):
        peer = bound(family)

        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, local_addr=(LOOPBACK[family], 0), remote_addr=peer.getsockname()[:2])
            transport.sendto(b"hello")
            assert peer.recvfrom(10) == (b"hello", transport.get_extra_info("sockname"))
            await end(protocol)

        run(main())

    def test_unix_local_and_remote_by_path(self, run, tmp_path, datagram_recorder, endpoint):
        one, other = str(tmp_path / "one"), str(tmp_path / "other")

        async def main():
            server = datagram_recorder()
            client = datagram_recorder()
            back = await endpoint(server, local_addr=other, family=socket.AF_UNIX)
            transport = await endpoint(client, local_addr=one, remote_addr=other, family=socket.AF_UNIX)
            assert transport.get_extra_info("sockname") == one
            assert transport.get_extra_info("peername") == other
            transport.sendto(b"there")
            await server.until_count(1)
            assert server.datagrams == [(b"there", one)]
            back.sendto(b"back", one)
            await client.until_count(1)
            assert client.datagrams == [(b"back", other)]
            await end(client, server)
            # A stale socket file is replaced.
            again = datagram_recorder()
            await endpoint(again, local_addr=other, family=socket.AF_UNIX)
            await end(again)

        run(main())

    def test_unnamed_pair(self, run, datagram_recorder, endpoint, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "takes the empty name of the peer for none, and cannot send")

        async def main():
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            protocol = datagram_recorder()
            transport = await endpoint(protocol, sock=ours)
            transport.sendto(b"to the peer")
            assert peer.recv(100) == b"to the peer"
            peer.send(b"back")
            await protocol.until_count(1)
            assert protocol.datagrams == [(b"back", None)]
            await end(protocol)
            peer.close()

        run(main())

    def test_unnamed_pair_and_an_address(self, run, bound, datagram_recorder, endpoint):
        third = bound("path")

        async def main():
            ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            protocol = datagram_recorder()
            transport = await endpoint(protocol, sock=ours)
            transport.sendto(b"to the third", third.getsockname())
            assert third.recv(100) == b"to the third"
            await end(protocol)
            peer.close()

        run(main())

    @pytest.mark.parametrize("family", ["v4", "v6"])
    def test_a_refused_connection_is_told_to_error_received(self, run, family, datagram_recorder, endpoint):
        with new_socket(family) as sock:
            sock.bind((LOOPBACK[family], 0))
            address = sock.getsockname()[:2]

        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, remote_addr=address)
            for _ in range(3):
                count = len(protocol.problems)
                transport.sendto(b"anybody there?")
                await protocol.until(lambda count=count: len(protocol.problems) > count)
            assert {type(exc) for exc in protocol.problems} == {ConnectionRefusedError}
            assert protocol.problems[0].errno == errno.ECONNREFUSED
            assert not transport.is_closing()
            await end(protocol)

        run(main())

    def test_the_peer_of_a_unix_endpoint_goes_and_comes_back(self, run, tmp_path, datagram_recorder, endpoint):
        path = str(tmp_path / "peer")

        async def main():
            server = datagram_recorder()
            await endpoint(server, local_addr=path, family=socket.AF_UNIX)
            client = datagram_recorder()
            transport = await endpoint(client, remote_addr=path, family=socket.AF_UNIX)
            await end(server)
            transport.sendto(b"x")
            assert [type(exc) for exc in client.problems] == [ConnectionRefusedError]
            await end(client)

        run(main())


class TestOptions:
    def test_broadcast_needs_permission(self, run, datagram_recorder, endpoint):
        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(protocol, local_addr=("127.0.0.1", 0))
            transport.sendto(b"x", ("255.255.255.255", 9))
            assert [type(exc) for exc in protocol.problems] == [PermissionError]
            await end(protocol)

        run(main())

    def test_allow_broadcast_does_not_connect(self, run, datagram_recorder, endpoint, bound):
        peer = bound("v4")

        async def main():
            protocol = datagram_recorder()
            transport = await endpoint(
                protocol, local_addr=("127.0.0.1", 0), remote_addr=peer.getsockname(), allow_broadcast=True
            )
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 1
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"hello")
            assert peer.recv(10) == b"hello"
            stranger = bound("v4")
            stranger.sendto(b"hi", transport.get_extra_info("sockname"))
            await protocol.until_count(1)
            assert protocol.contents == [b"hi"]
            await end(protocol)

        run(main())

    def test_reuse_port(self, run, datagram_recorder, endpoint):
        async def main():
            one, other = datagram_recorder(), datagram_recorder()
            transport = await endpoint(one, local_addr=("127.0.0.1", 0), reuse_port=True)
            address = transport.get_extra_info("sockname")
            await endpoint(other, local_addr=address, reuse_port=True)
            with pytest.raises(OSError) as info:
                await endpoint(datagram_recorder(), local_addr=address)
            assert info.value.errno == errno.EADDRINUSE
            await end(one, other)

        run(main())

    def test_nonsense(self, run, datagram_recorder, endpoint):
        async def main():
            with pytest.raises(ValueError, match="unexpected address family"):
                await endpoint(datagram_recorder())
            with pytest.raises(TypeError, match="string is expected"):
                await endpoint(datagram_recorder(), local_addr=(1, 2), family=socket.AF_UNIX)
            with socket.socket() as stream, pytest.raises(ValueError, match=r"A (UDP S|datagram s)ocket was expected"):
                await endpoint(datagram_recorder(), sock=stream)

        run(main())


class TestTheRest:
    def test_extra_information(self, run, datagram_recorder, listening, reading_can_be_paused):
        async def main():
            protocol = datagram_recorder()
            transport, address = await listening("v4", protocol)
            fd = transport.get_extra_info("socket").fileno()
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("peername") is None
            assert transport.get_extra_info("nothing", 7) == 7
            assert isinstance(transport, asyncio.DatagramTransport if SENDS_EMPTY else asyncio.Transport)
            assert f"fd={fd} read=polling write=<idle, bufsize=0>" in repr(transport)
            transport.pause_reading()
            assert "read=idle" in repr(transport)
            transport.close()
            assert "closing" in repr(transport)
            await protocol.until_lost()
            assert "closed" in repr(transport)
            assert transport.get_extra_info("sockname") == address
            assert transport.get_extra_info("socket").fileno() == -1

        run(main())

    def test_contexts(self, run, datagram_recorder, endpoint, bound):
        variable = contextvars.ContextVar("variable", default="outside")
        seen = []

        def note(self, *args):
            seen.append(variable.get())

        async def main():
            protocol = datagram_recorder(connection_made=note, datagram_received=note, connection_lost=note)
            variable.set("inside")
            sock = bound("v4")
            await endpoint(protocol, sock=sock)
            variable.set("later")
            sock.sendto(b"x", sock.getsockname())
            sock.sendto(b"y", sock.getsockname())
            await protocol.until_count(2)
            variable.set("at the end")
            await end(protocol)
            assert seen == ["inside", "inside", "inside", "at the end"]

        run(main())

    def test_set_protocol(self, run, datagram_recorder, listening, bound):
        async def main():
            first, second = datagram_recorder(), datagram_recorder()
            transport, address = await listening("v4", first)
            client = bound("v4")
            client.sendto(b"1", address)
            await first.until_count(1)
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            client.sendto(b"2", address)
            await second.until_count(1)
            assert (first.contents, second.contents) == ([b"1"], [b"2"])
            transport.close()
            await second.until_lost()
            assert "connection_lost" not in first.names

        run(main())

    def test_a_transport_that_nobody_closed_warns(self, any_factory, datagram_recorder, bound):
        loop = any_factory()
        sock = bound("v4")
        transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(datagram_recorder, sock=sock))
        loop.close()
        with pytest.warns(ResourceWarning, match=r"unclosed transport <\w*DatagramTransport"):
            protocol.transport = transport = None
            del protocol, transport
            gc.collect()
        assert sock.fileno() == -1
