"""Stream transports: every byte, in order, in both directions; what write() takes; what can be asked."""

import array
import asyncio
import gc
import importlib
import os
import random
import socket
import sys
import threading
import time
import weakref

import pytest

import aioqemu_loop

from .helpers import in_executor, read_exactly

# asyncio's words.
BYTES_WANTED = "a bytes, bytearray, or memoryview object" if sys.version_info >= (3, 14) else "a bytes-like object"


async def finish(transport, protocol):
    transport.close()
    await protocol.until_lost()


class TestReading:
    def test_data_arrives_in_order_and_then_the_end(self, run, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder()
            await connect(ours, protocol)
            peer.sendall(b"hello")
            await protocol.until(lambda: protocol.data == b"hello")
            peer.sendall(b" world")
            peer.close()
            await protocol.until_lost()
            assert protocol.data == b"hello world"
            assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
            assert protocol.lost is None
            assert all(type(call[1]) is bytes for call in protocol.calls if call[0] == "data_received")

        run(main())

    def test_data_and_end_that_were_there_before_the_transport(self, run, pair, connect, recorder):
        ours, peer = pair

        async def main():
            peer.sendall(b"early")
            peer.close()
            protocol = recorder()
            await connect(ours, protocol)
            await protocol.until_lost()
            assert [call[0] for call in protocol.calls] == [
                "connection_made",
                "data_received",
                "eof_received",
                "connection_lost",
            ]

        run(main())

    @pytest.mark.parametrize("seed", range(3))
    def test_random_sizes_and_pauses_in_both_directions_at_once(
        self, run, pair, connect, recorder, seed, stdlib_is_wrong
    ):
        stdlib_is_wrong((3, 12), "writelines() asserts that something is written, and fails when the socket is full")
        ours, peer = pair
        rng = random.Random(seed)
        inbound, outbound = rng.randbytes(3_000_000), rng.randbytes(3_000_000)

        def send():
            rng, at = random.Random(seed + 100), 0
            while at < len(inbound):
                size = rng.choice((1, 100, 4096, 65536, 262144, 300_000))
                peer.sendall(inbound[at : at + size])
                at += size

        async def main():
            loop = asyncio.get_running_loop()
            resumed = asyncio.Event()
            resumed.set()

            def on_data(self, data):
                if rng.random() < 0.2:
                    self.transport.pause_reading()
                    loop.call_later(rng.random() * 0.002, self.transport.resume_reading)

            protocol = recorder(
                data_received=on_data,
                pause_writing=lambda self: resumed.clear(),
                resume_writing=lambda self: resumed.set(),
            )
            transport = await connect(ours, protocol)
            sender = in_executor(send)
            receiver = in_executor(read_exactly, peer, len(outbound))
            at = 0
            while at < len(outbound):
                await resumed.wait()
                for _ in range(rng.randrange(5)):
                    size = rng.choice((0, 1, 1000, 30_000, 100_000, 500_000))
                    piece = outbound[at : at + size]
                    form = rng.choice((bytes, bytearray, memoryview))
                    if rng.random() < 0.3:
                        transport.writelines([form(piece[: size // 2]), form(piece[size // 2 :])])
                    else:
                        transport.write(form(piece))
                    at += len(piece)
                await asyncio.sleep(0)
            assert await receiver == outbound
            await sender
            await protocol.until(lambda: len(protocol.data) == len(inbound))
            assert protocol.data == inbound
            await finish(transport, protocol)

        run(main())

    def test_ten_megabytes_both_ways_at_once(self, run, pair, connect, recorder):
        ours, peer = pair
        blob = os.urandom(10_000_000)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            transport.write(blob)
            receiver = in_executor(read_exactly, peer, len(blob))
            sender = threading.Thread(target=peer.sendall, args=(blob,))
            sender.start()
            assert await receiver == blob
            await protocol.until(lambda: len(protocol.data) == len(blob))
            sender.join()
            assert protocol.data == blob
            await finish(transport, protocol)

        run(main())

    def test_urgent_data_in_the_middle_does_not_stall_the_stream(self, run, tcp, connect, recorder):
        """recv() stops short at the urgent mark: a short read does not mean that the socket is empty."""
        ours, peer = tcp

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for i in range(20):
                peer.sendall(b"before")
                peer.send(b"!", socket.MSG_OOB)
                peer.sendall(b"after")
                wanted = b"beforeafter" * (i + 1)
                await protocol.until(lambda wanted=wanted: len(protocol.data) == len(wanted))
                assert protocol.data == wanted
            await finish(transport, protocol)

        run(main())

    def test_ancillary_data_in_a_unix_stream_does_not_stall_the_rest(self, run, connect, recorder, any_loop):
        ours, peer = socket.socketpair()
        ours.setblocking(False)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for i in range(20):
                peer.send(b"one ")
                socket.send_fds(peer, [b"two "], [0])
                peer.send(b"three ")
                wanted = b"one two three " * (i + 1)
                await protocol.until(lambda wanted=wanted: len(protocol.data) == len(wanted))
                assert protocol.data == wanted
            await finish(transport, protocol)

        run(main())
        peer.close()

    def test_a_flood_does_not_starve_timers_and_other_connections(self, run, pair, connect, recorder):
        ours, peer = pair
        stop = threading.Event()

        def flood():
            peer.settimeout(0.2)
            blob = bytes(1 << 20)
            while not stop.is_set():
                try:
                    peer.send(blob)
                except OSError:
                    return

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            thread = threading.Thread(target=flood)
            thread.start()
            try:
                for _ in range(20):
                    await asyncio.sleep(0.001)
            finally:
                stop.set()
                await in_executor(thread.join)
            await finish(transport, protocol)

        run(main())


class TestWriting:
    @pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
    def test_forms_of_data(self, run, pair, connect, recorder, form):
        ours, peer = pair
        blob = os.urandom(70_001)

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            if isinstance(form(b""), array.array):
                with pytest.raises(TypeError, match=f"data argument must be {BYTES_WANTED}, not 'array'"):
                    transport.write(form(blob))
            else:
                for data in (blob[:10], blob):
                    transport.write(form(data))
                    assert await in_executor(read_exactly, peer, len(data)) == data
            await finish(transport, protocol)

        run(main())

    @pytest.mark.parametrize("size", [10, 3_000_000])
    def test_what_is_changed_after_write_is_sent_as_it_was(self, run, pair, connect, recorder, size, stdlib_is_wrong):
        stdlib_is_wrong((3, 12), "holds views of what was written")
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for wrap in (lambda data: data, memoryview):
                data = bytearray(b"x" * size)
                transport.write(wrap(data))
                data[:] = b"y" * size
                data.clear  # noqa: B018
                assert await in_executor(read_exactly, peer, size) == b"x" * size
                data = bytearray(b"x" * size)
                transport.writelines([wrap(data), b"-"])
                data[:] = b"y" * size
                assert await in_executor(read_exactly, peer, size + 1) == b"x" * size + b"-"
            await finish(transport, protocol)

        run(main())

    def test_a_written_bytearray_can_be_resized_at_once(self, run, pair, connect, recorder, stdlib_is_wrong):
        stdlib_is_wrong((3, 12), "holds views of what was written")
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            data = bytearray(b"x" * 5_000_000)
            transport.write(data)
            data.clear()  # BufferError where somebody still holds it
            assert await in_executor(read_exactly, peer, 5_000_000) == b"x" * 5_000_000
            await finish(transport, protocol)

        run(main())

    def test_items_of_more_than_a_byte_count_in_bytes(self, loop, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            numbers = array.array("I", range(1000))
            transport.write(memoryview(numbers))
            assert await in_executor(read_exactly, peer, 4000) == numbers.tobytes()
            await finish(transport, protocol)

        loop.run_until_complete(main())

    @pytest.mark.parametrize("bad", ["text", 1, None, [b"x"], object()])
    def test_what_is_no_bytes_is_refused_and_the_connection_goes_on(
        self, run, pair, connect, recorder, bad, stdlib_is_wrong
    ):
        stdlib_is_wrong((3, 15), "writelines() has queued what stands before the bad item")
        if bad is None:
            stdlib_is_wrong((3, 14), "writelines() passes over whatever is false")
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            text = f"^data argument must be {BYTES_WANTED}, not '{type(bad).__name__}'$"
            with pytest.raises(TypeError, match=text):
                transport.write(bad)
            with pytest.raises(TypeError):
                transport.writelines([b"not sent", bad])
            transport.write(b"fine")
            assert await in_executor(read_exactly, peer, 4) == b"fine"
            await finish(transport, protocol)

        run(main())

    @pytest.mark.parametrize("count", [0, 1, 2, 1024, 1025, 3000])
    def test_writelines_of_many_items(self, run, pair, connect, recorder, count, stdlib_is_wrong):
        stdlib_is_wrong((3, 12), "asserts that something is written")
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            items = [b"%d," % i * (i % 7) for i in range(count)]
            transport.writelines(iter(items) if sys.version_info >= (3, 12) else items)
            transport.write(b"end")
            whole = b"".join(items) + b"end"
            assert await in_executor(read_exactly, peer, len(whole)) == whole
            await finish(transport, protocol)

        run(main())

    @pytest.mark.parametrize("bad", [5, memoryview(b"abcdef")[::2]], ids=["number", "gaps"])
    def test_nothing_of_writelines_with_a_bad_item_is_sent(self, loop, pair, connect, recorder, bad):
        """Nor does it stay behind to be sent later."""
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            with pytest.raises((TypeError, BufferError)):
                transport.writelines([b"not sent", bad])
            transport.writelines([b"head", memoryview(b"abcdef")[1:3]])
            assert await in_executor(read_exactly, peer, 6) == b"headbc"
            await finish(transport, protocol)

        loop.run_until_complete(main())

    def test_empty_writes_do_nothing(self, run, pair, connect, recorder):
        ours, peer = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for empty in (b"", bytearray(), memoryview(b"")):
                transport.write(empty)
                transport.writelines([empty, empty])
            assert transport.get_write_buffer_size() == 0
            transport.write(b"x")
            assert await in_executor(read_exactly, peer, 1) == b"x"
            await finish(transport, protocol)

        run(main())

    def test_what_one_callback_writes_leaves_in_one_piece(self, loop, pair, connect, recorder):
        """Headers and body: the peer's first recv() gets all of it, so it left in one system call."""
        ours, peer = pair
        chunks = []

        def read_once():
            chunks.append(peer.recv(65536))

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for _ in range(20):
                reader = threading.Thread(target=read_once)
                reader.start()
                loop.call_soon(lambda: [transport.write(part) for part in (b"header ", b"body", b".")])
                await in_executor(reader.join)
            assert chunks == [b"header body."] * 20
            await finish(transport, protocol)

        loop.run_until_complete(main())

    def test_what_the_callbacks_of_one_turn_write_goes_out_together_at_its_end(self, loop, pair, connect, recorder):
        ours, peer = pair
        got = []

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            for part in (b"first ", b"second ", b"third"):
                loop.call_soon(transport.write, part)
            await asyncio.sleep(0)  # in their turn
            await asyncio.sleep(0)
            got.append(peer.recv(100))
            assert got == [b"first second third"]
            await finish(transport, protocol)

        loop.run_until_complete(main())

    def test_output_does_not_wait_for_slow_callbacks(self, loop, pair, connect, recorder):
        ours, peer = pair
        got = []

        def compute():
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            loop.call_soon(transport.write, b"first")
            loop.call_soon(compute)
            loop.call_soon(lambda: got.append(peer.recv(100)))  # the next callback of the same turn
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert got == [b"first"]
            await finish(transport, protocol)

        loop.run_until_complete(main())

    def test_writing_while_no_callback_runs(self, any_loop, pair, connect, recorder):
        ours, peer = pair
        protocol = recorder()
        transport = any_loop.run_until_complete(connect(ours, protocol))
        transport.write(b"outside")
        assert peer.recv(100) == b"outside"
        any_loop.run_until_complete(finish(transport, protocol))


class TestCalling:
    @pytest.mark.parametrize("debug", [False, True])
    def test_a_call_soon_that_somebody_put_in_place_is_used(self, run, any_loop, pair, connect, recorder, debug):
        ours, peer = pair
        called = []

        def call_soon(callback, *args, context=None):
            called.append(getattr(callback, "__name__", None))
            return type(any_loop).call_soon(any_loop, callback, *args, context=context)

        async def main():
            any_loop.set_debug(debug)
            any_loop.call_soon = call_soon
            protocol = recorder()
            await connect(ours, protocol)
            del any_loop.call_soon
            assert "connection_made" in called
            called.clear()
            peer.close()
            await protocol.until_lost()
            assert called == []

        run(main())

    def test_a_subclass_with_a_call_soon_of_its_own(self, fdmon, pair, recorder):
        called = []

        class Loop(aioqemu_loop.Loop):
            def call_soon(self, callback, *args, context=None):
                called.append(getattr(callback, "__name__", None))
                return super().call_soon(callback, *args, context=context)

        async def main():
            protocol = recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=pair[0])
            pair[1].close()
            await protocol.until_lost()

        loop = Loop(fdmon=fdmon)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        assert "connection_made" in called
        assert "_call_connection_lost" in called


class TestAsking:
    def test_what_it_is(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.ReadTransport)
            assert isinstance(transport, asyncio.WriteTransport)
            assert isinstance(transport, asyncio.transports._FlowControlMixin)
            assert transport._start_tls_compatible
            assert transport.get_protocol() is protocol
            assert transport.can_write_eof()
            assert transport.is_reading()
            assert not transport.is_closing()
            assert transport.get_write_buffer_limits() == (16384, 65536)
            assert transport._loop is asyncio.get_running_loop()
            assert len({transport}) == 1
            assert weakref.ref(transport)() is transport
            await finish(transport, protocol)
            assert transport.is_closing()
            assert not transport.is_reading()

        run(main())

    def test_extra_information(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, asyncio.trsock.TransportSocket)
            assert (sock.family, sock.fileno()) == (ours.family, ours.fileno())
            sockname, peername = ours.getsockname(), ours.getpeername()
            assert transport.get_extra_info("sockname") == sockname
            assert transport.get_extra_info("peername") == peername
            assert transport.get_extra_info("nonsense") is None
            assert transport.get_extra_info("nonsense", 5) == 5
            await finish(transport, protocol)
            assert transport.get_extra_info("sockname") == sockname
            assert transport.get_extra_info("peername") == peername
            assert transport.get_extra_info("socket") is sock
            assert sock.fileno() == -1

        run(main())

    def test_extra_information_that_is_first_asked_for_after_the_end(self, run, recorder):
        """As in a log message of connection_lost or later; for an accepted connection, too."""

        async def main():
            loop = asyncio.get_running_loop()
            accepted = recorder()
            server = await loop.create_server(lambda: accepted, "127.0.0.1", 0)
            peer = socket.create_connection(server.sockets[0].getsockname())
            await accepted.until_called("connection_made")
            peer_name = peer.getsockname()
            transport = accepted.transport
            peer.close()
            await accepted.until_lost()
            assert transport.get_extra_info("peername") == peer_name
            assert transport.get_extra_info("sockname") == server.sockets[0].getsockname()
            assert transport.get_extra_info("socket").fileno() == -1
            server.close()
            await server.wait_closed()

        run(main())

    def test_repr_in_every_state(self, run, pair, connect, recorder):
        """As the stdlib's, but for the class name."""
        ours, _ = pair

        async def main():
            def text(expected):
                assert repr(transport).split(" ", 1)[1] == expected

            protocol = recorder()
            transport = await connect(ours, protocol)
            fd = ours.fileno()
            await asyncio.sleep(0)
            text(f"fd={fd} read=polling write=<idle, bufsize=0>>")
            transport.pause_reading()
            text(f"fd={fd} read=idle write=<idle, bufsize=0>>")
            transport.write(bytes(20_000_000))
            assert f"fd={fd} read=idle write=<polling, bufsize=" in repr(transport)
            transport.close()
            assert f" closing fd={fd} read=idle write=<polling, bufsize=" in repr(transport)
            transport.abort()
            text(f"closing fd={fd} read=idle write=<idle, bufsize=0>>")
            await protocol.until_lost()
            text(f"closed fd={fd}>")

        run(main())

    def test_a_closed_transport_keeps_nothing_alive(self, run, pair, connect, recorder):
        ours, _ = pair

        async def main():
            protocol = recorder()
            transport = await connect(ours, protocol)
            refs = weakref.ref(transport), weakref.ref(protocol)
            await finish(transport, protocol)
            assert transport.get_protocol() is None
            protocol.transport = None
            del transport, protocol
            gc.collect()
            assert [ref() for ref in refs] == [None, None]

        run(main())


@pytest.mark.parametrize(
    "name", ["stream.StreamTransport", "base.BaseTransport", "writing.WritingTransport", "datagram.DatagramTransport"]
)
def test_a_transport_cannot_be_made_by_hand(name):
    """One without a loop would be of no use, and its methods go by what the loop gives it."""
    module, _, kind = name.partition(".")
    with pytest.raises(TypeError):
        getattr(importlib.import_module(f"aioqemu_loop.transports.{module}"), kind)()
