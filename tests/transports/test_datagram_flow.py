"""Datagram endpoints whose peer is slow: what waits, in which order it goes, who is told; and large numbers."""

import asyncio
import contextlib
import errno
import itertools
import socket
import sys
import time

import pytest

HEADER = 8 if sys.version_info >= (3, 13) else 0


@pytest.fixture
def sizes_are_right(stdlib_is_wrong):
    stdlib_is_wrong((3, 13), "3.13.0 forgets headers that it has counted, and never calls resume_writing()")


@pytest.fixture(params=["connected", "unconnected"])
def connected(request):
    return request.param == "connected"


@pytest.fixture
def stuck(connected, endpoint, datagram_recorder, tmp_path):
    """await stuck(**hooks) -> (protocol, send, receiver, in_flight): a Unix endpoint whose receiver takes no more.

    send(data) is sendto() with the address that is needed; in_flight is what the receiver holds already. The receiver
    is a plain non-blocking socket.
    """
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "receiver"))
    receiver.setblocking(False)

    async def make(**hooks):
        protocol = datagram_recorder(**hooks)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        address = None if connected else receiver.getsockname()
        if connected:
            sock.connect(receiver.getsockname())
        in_flight = []
        with contextlib.suppress(BlockingIOError):
            for i in itertools.count():
                payload = b"filler %d" % i
                sock.send(payload) if connected else sock.sendto(payload, address)
                in_flight.append(payload)
        transport = await endpoint(protocol, sock=sock)
        return protocol, lambda data: transport.sendto(data, address), receiver, in_flight

    with receiver:
        yield make


async def drain(receiver, count, each=lambda: None):
    """Read `count` datagrams as they come."""
    loop = asyncio.get_running_loop()
    got = []
    while len(got) < count:
        got.append(await asyncio.wait_for(loop.sock_recv(receiver, 1 << 20), 15))
        each()
    return got


class TestAFullReceiver:
    def test_what_waits_arrives_in_order(self, run, stuck, sizes_are_right):
        payloads = [b"%d" % i * (i % 50) + b"." for i in range(300)]

        async def main():
            protocol, send, receiver, in_flight = await stuck()
            for payload in payloads:
                send(payload)
            assert protocol.transport.get_write_buffer_size() == sum(len(p) + HEADER for p in payloads)
            assert "write=<polling" in repr(protocol.transport)
            assert await drain(receiver, len(in_flight) + len(payloads)) == in_flight + payloads
            while protocol.transport.get_write_buffer_size():
                await asyncio.sleep(0.001)
            send(b"at once")
            assert receiver.recv(100) == b"at once"
            assert protocol.problems == []
            protocol.transport.close()
            await protocol.until_lost()

        run(main())

    def test_waiting_does_not_spin(self, run, stuck, connected, stdlib_is_wrong):
        if not connected:
            stdlib_is_wrong((3, 0), "asks epoll for the sender's side, which is always ready")

        async def main():
            protocol, send, receiver, in_flight = await stuck()
            send(b"waits")
            before = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - before < 0.25
            assert await drain(receiver, len(in_flight) + 1) == [*in_flight, b"waits"]
            protocol.transport.close()
            await protocol.until_lost()

        run(main())

    def test_what_changes_after_sendto_was_copied(self, run, stuck):
        async def main():
            protocol, send, receiver, in_flight = await stuck()
            data = bytearray(b"before")
            send(data)
            send(memoryview(data)[1:])
            data[:] = b"after!"
            assert (await drain(receiver, len(in_flight) + 2))[-2:] == [b"before", b"efore"]
            protocol.transport.close()
            await protocol.until_lost()

        run(main())

    def test_the_size_of_a_view_is_in_bytes(self, run, stuck, stdlib_is_wrong):
        stdlib_is_wrong((3, 0), "counts a view's items in, and bytes out")

        async def main():
            protocol, send, receiver, in_flight = await stuck()
            send(memoryview(b"12345678").cast("I"))
            assert protocol.transport.get_write_buffer_size() == 8 + HEADER
            assert (await drain(receiver, len(in_flight) + 1))[-1] == b"12345678"
            while protocol.transport.get_write_buffer_size():
                await asyncio.sleep(0.001)
            protocol.transport.close()
            await protocol.until_lost()

        run(main())

    def test_pause_and_resume_writing(self, run, stuck, sizes_are_right):
        payload = bytes(1000)

        async def main():
            protocol, send, receiver, in_flight = await stuck()
            transport = protocol.transport
            transport.set_write_buffer_limits(10 * (1000 + HEADER), 2 * (1000 + HEADER))
            for _ in range(10):
                send(payload)
            assert "pause_writing" not in protocol.names
            send(payload)
            assert protocol.names[-1] == "pause_writing"  # at once, inside sendto()
            send(payload)
            assert protocol.names.count("pause_writing") == 1
            sizes = []
            protocol.hooks["resume_writing"] = lambda self: sizes.append(transport.get_write_buffer_size())
            await drain(receiver, len(in_flight) + 12)
            await protocol.until_called("resume_writing")
            assert sizes[0] <= 2 * (1000 + HEADER)
            assert protocol.names.count("resume_writing") == 1
            transport.close()
            await protocol.until_lost()

        run(main())

    def test_close_sends_what_waits_first(self, run, stuck):
        async def main():
            protocol, send, receiver, in_flight = await stuck()
            for i in range(50):
                send(b"%d" % i)
            protocol.transport.close()
            assert protocol.transport.is_closing()
            send(b"late")  # behind the others: the transport is not gone yet
            for _ in range(5):
                await asyncio.sleep(0)
            assert "connection_lost" not in protocol.names
            expected = [*in_flight, *(b"%d" % i for i in range(50)), b"late"]
            assert await drain(receiver, len(expected)) == expected
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_abort_drops_what_waits(self, run, stuck):
        async def main():
            protocol, send, receiver, in_flight = await stuck()
            for i in range(50):
                send(b"%d" % i)
            protocol.transport.abort()
            await protocol.until_lost()
            assert protocol.lost is None
            assert await drain(receiver, len(in_flight)) == in_flight
            with pytest.raises(BlockingIOError):
                receiver.recv(100)

        run(main())

    def test_close_then_abort(self, run, stuck):
        async def main():
            protocol, send, _, _ = await stuck()
            send(b"x")
            protocol.transport.close()
            protocol.transport.abort()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    def test_the_receiver_goes(self, run, stuck):
        """One error for a datagram that waited; then all is well again."""

        async def main():
            protocol, send, receiver, _ = await stuck()
            send(b"one")
            send(b"two")
            receiver.close()
            await protocol.until(lambda: len(protocol.problems) == 2)
            # A refused connection is none any more.
            assert {exc.errno for exc in protocol.problems} <= {errno.ECONNREFUSED, errno.ENOTCONN}
            assert not protocol.transport.is_closing()
            protocol.transport.close()
            await protocol.until_lost()
            assert protocol.lost is None

        run(main())

    @pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
    def test_error_received_raises_and_the_rest_still_goes(self, any_loop, errors, run, stuck, kind):
        """The datagrams that fail are told once each, and closing waits for all of them."""

        def fail(self, exc):
            raise kind

        async def start():
            protocol, send, receiver, _ = await stuck(
                error_received=fail, connection_lost=lambda self, exc: any_loop.stop()
            )
            for i in range(3):
                send(b"%d" % i)
            protocol.transport.close()
            return protocol, receiver

        protocol, receiver = run(start())
        receiver.close()
        while "connection_lost" not in protocol.names:
            with contextlib.suppress(kind):
                any_loop.run_forever()
        assert len(protocol.problems) == 3
        assert len(errors) == (3 if kind is ZeroDivisionError else 0)
        errors.clear()

    def test_a_mistake_that_waited_ends_the_transport(self, run, errors, stuck, connected):
        if connected:
            pytest.skip("no address to be wrong")

        async def main():
            protocol, send, receiver, in_flight = await stuck()
            send(b"good")
            protocol.transport.sendto(b"bad", 7)
            send(b"never")
            assert await drain(receiver, len(in_flight) + 1) == [*in_flight, b"good"]
            await protocol.until_lost()
            assert isinstance(protocol.lost, TypeError)
            assert [details["message"] for details in errors] == ["Fatal write error on datagram transport"]
            errors.clear()

        run(main())

    def test_sendto_inside_resume_writing(self, run, stuck, sizes_are_right):
        async def main():
            protocol, send, receiver, in_flight = await stuck(resume_writing=lambda self: send_more())
            protocol.transport.set_write_buffer_limits(100, 0)
            left = [b"last", b"more"]

            def send_more():
                if left:
                    send(left.pop())

            for i in range(20):
                send(b"%d" % i * 10)
            expected = [*in_flight, *(b"%d" % i * 10 for i in range(20)), b"more"]
            assert await drain(receiver, len(expected)) == expected
            protocol.transport.close()
            await protocol.until_lost()

        run(main())


class TestNumbers:
    @pytest.mark.parametrize("paired", [True, False])
    def test_thousands_both_ways_and_none_lost(
        self, run, paired, endpoint, datagram_recorder, tmp_path, sizes_are_right
    ):
        """Two endpoints on named sockets, connected to each other or not, that obey pause_writing."""
        count = 3000

        async def main():
            paths = [str(tmp_path / name) for name in ("one", "other")]
            socks = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in paths]
            for sock, path in zip(socks, paths, strict=True):
                sock.bind(path)
            if paired:
                socks[0].connect(paths[1])
                socks[1].connect(paths[0])

            def pump(self):
                while self.next < count and self.may_send:
                    self.next += 1
                    self.transport.sendto(b"%d " % self.next + bytes(self.next % 700), None if paired else self.target)

            def pause(self):
                self.may_send = False

            def resume(self):
                self.may_send = True
                pump(self)

            protocols = []
            for sock, target in zip(socks, reversed(paths), strict=True):
                protocol = datagram_recorder(pause_writing=pause, resume_writing=resume)
                protocol.next, protocol.may_send, protocol.target = 0, True, target
                await endpoint(protocol, sock=sock)
                protocol.transport.set_write_buffer_limits(20_000, 5_000)
                protocols.append(protocol)
            for protocol in protocols:
                pump(protocol)
            for protocol in protocols:
                await protocol.until_count(count)
            for protocol in protocols:
                assert [int(data.split(b" ")[0]) for data in protocol.contents] == list(range(1, count + 1))
                assert all(len(data) == len(b"%d " % i) + i % 700 for i, data in enumerate(protocol.contents, 1))
                assert protocol.problems == []
                protocol.transport.close()
                await protocol.until_lost()

        run(main())

    def test_a_flood_does_not_starve_others(self, run, endpoint, datagram_recorder):
        """A protocol that answers itself for ever; a timer runs all the same."""

        async def main():
            protocol = datagram_recorder(datagram_received=lambda self, data: self.transport.sendto(data, address))
            transport = await endpoint(protocol, local_addr=("127.0.0.1", 0))
            address = transport.get_extra_info("sockname")
            for _ in range(20):
                transport.sendto(b"x", address)
            started = time.monotonic()
            await asyncio.sleep(0.05)
            assert time.monotonic() - started < 5
            assert len(protocol.datagrams) > 20
            transport.abort()
            await protocol.until_lost()

        run(main())
