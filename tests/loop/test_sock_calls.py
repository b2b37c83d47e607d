"""The sock_* coroutines: every family, waiting and not, cancelled, and used wrongly."""

import array
import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
import time

import pytest

from ..transports.helpers import reset

PATIENCE = 20.0  # seconds until a wait is a failure


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other


MAKERS = {
    "tcp": tcp_pair,
    "unix": socket.socketpair,
    "seqpacket": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "datagram": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
}


@contextlib.contextmanager
def closing(sockets):
    """Two sockets made non-blocking, closed at the end."""
    one, other = sockets
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


@pytest.fixture(params=MAKERS)
def pair(request):
    with closing(MAKERS[request.param]()) as sockets:
        yield sockets


@pytest.fixture(params=["tcp", "unix"])
def streams(request):
    with closing(MAKERS[request.param]()) as sockets:
        yield sockets


@pytest.fixture
def has_datagram_calls(any_loop):
    if not hasattr(any_loop, "sock_recvfrom"):
        pytest.skip("asyncio has sock_recvfrom, sock_recvfrom_into and sock_sendto since 3.11; this loop everywhere")


async def started(loop, coroutine):
    """A task that has run until it waits."""
    task = loop.create_task(coroutine)
    await asyncio.sleep(0)
    return task


def udp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


class TestReceiving:
    def test_what_is_there_and_what_comes(self, any_loop, run, pair):
        a, b = pair

        async def main():
            b.send(b"there")
            assert await any_loop.sock_recv(a, 100) == b"there"
            waiting = await started(any_loop, any_loop.sock_recv(a, 100))
            assert not waiting.done()
            await any_loop.sock_sendall(b, b"comes")
            assert await waiting == b"comes"

        run(main())

    def test_no_more_than_asked_for(self, any_loop, run, streams):
        a, b = streams

        async def main():
            b.send(b"0123456789")
            assert await any_loop.sock_recv(a, 3) == b"012"
            assert await any_loop.sock_recv(a, 1 << 20) == b"3456789"
            b.send(b"more")
            assert await any_loop.sock_recv(a, 0) == b""
            assert await any_loop.sock_recv(a, 100) == b"more"

        run(main())

    def test_the_end_of_the_stream(self, any_loop, run, streams):
        a, b = streams

        async def main():
            waiting = await started(any_loop, any_loop.sock_recv(a, 100))
            b.close()
            assert await waiting == b""
            assert await any_loop.sock_recv_into(a, bytearray(5)) == 0

        run(main())

    @pytest.mark.parametrize(
        "make", [lambda: bytearray(8), lambda: memoryview(bytearray(8)), lambda: array.array("I", [0, 0])]
    )
    def test_into_a_buffer(self, any_loop, run, pair, make):
        a, b = pair
        buffer = make()

        async def main():
            waiting = await started(any_loop, any_loop.sock_recv_into(a, buffer))
            b.send(b"12345678")
            assert await waiting == 8
            assert bytes(buffer) == b"12345678"

        run(main())

    @pytest.mark.usefixtures("has_datagram_calls")
    def test_datagrams_with_addresses(self, any_loop, run):
        with udp() as a, udp() as b:

            async def main():
                waiting = await started(any_loop, any_loop.sock_recvfrom(a, 1000))
                assert await any_loop.sock_sendto(b, b"one", a.getsockname()) == 3
                assert await waiting == (b"one", b.getsockname())
                buffer = bytearray(10)
                waiting = await started(any_loop, any_loop.sock_recvfrom_into(a, buffer))
                assert await any_loop.sock_sendto(b, b"", a.getsockname()) == 0
                assert await waiting == (0, b.getsockname())
                await any_loop.sock_sendto(b, b"two", a.getsockname())
                assert await any_loop.sock_recvfrom_into(a, buffer, 2) == (2, b.getsockname())
                assert buffer[:3] == b"tw\0"

            run(main())

    def test_packets_keep_their_borders(self, any_loop, run):
        with closing(MAKERS["seqpacket"]()) as (a, b):

            async def main():
                for i in range(50):
                    await any_loop.sock_sendall(b, b"packet %d" % i)
                assert [await any_loop.sock_recv(a, 100) for i in range(50)] == [b"packet %d" % i for i in range(50)]

            run(main())


class TestResetByThePeer:
    """The kernel tells of a reset once: who asks again gets an end of the stream that was none."""

    @pytest.mark.parametrize("already", [True, False], ids=["before", "meanwhile"])
    @pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into", "sock_sendall"])
    def test_is_an_error_and_no_end(self, any_loop, run, method, already):
        with closing(MAKERS["tcp"]()) as (a, b):

            async def main():
                argument = 100 if method == "sock_recv" else bytearray(100)
                if method == "sock_sendall" and not already:
                    argument = bytes(50_000_000)  # more than there is room for
                if already:
                    reset(b)
                    waiting = getattr(any_loop, method)(a, argument)
                else:
                    waiting = await started(any_loop, getattr(any_loop, method)(a, argument))
                    reset(b)
                with pytest.raises(ConnectionResetError):
                    await waiting

            run(main())


class TestSending:
    @pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
    def test_much_more_than_fits(self, any_loop, run, streams, form):
        a, b = streams
        data = random.Random(1).randbytes(4_000_000)

        async def receive():
            digest, size = hashlib.sha256(), 0
            while size < len(data):
                chunk = await any_loop.sock_recv(b, 100_000)
                digest.update(chunk)
                size += len(chunk)
            return digest.digest()

        async def main():
            receiving = any_loop.create_task(receive())
            assert await any_loop.sock_sendall(a, form(data)) is None
            assert await receiving == hashlib.sha256(data).digest()

        run(main())

    def test_nothing(self, any_loop, run, streams):
        async def main():
            assert await any_loop.sock_sendall(streams[0], b"") is None

        run(main())

    def test_the_peer_is_gone(self, any_loop, run, streams):
        a, b = streams

        async def main():
            b.close()
            with pytest.raises(OSError) as info:
                while True:
                    await any_loop.sock_sendall(a, bytes(100_000))
            assert isinstance(info.value, (BrokenPipeError, ConnectionResetError))

        run(main())

    def test_a_full_unix_receiver_makes_the_sender_wait(self, any_loop, run):
        with closing(MAKERS["datagram"]()) as (a, b):

            async def send():
                for i in range(300):
                    await any_loop.sock_sendall(a, b"%d" % i)

            async def main():
                sending = await started(any_loop, send())
                assert not sending.done()
                assert [await any_loop.sock_recv(b, 100) for _ in range(300)] == [b"%d" % i for i in range(300)]
                await sending

            run(main())


class TestConnecting:
    def test_accept_and_connect(self, any_loop, run):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.setblocking(False)
                accepting = await started(any_loop, any_loop.sock_accept(listener))
                with socket.socket() as client:
                    client.setblocking(False)
                    await any_loop.sock_connect(client, listener.getsockname())
                    server, address = await accepting
                    with server:
                        assert address == client.getsockname()
                        assert server.gettimeout() == 0
                        assert not server.get_inheritable()
                        await any_loop.sock_sendall(client, b"hello")
                        assert await any_loop.sock_recv(server, 10) == b"hello"

        run(main())

    def test_a_name_is_resolved(self, any_loop, run):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
                client.setblocking(False)
                await any_loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
                assert client.getpeername() == listener.getsockname()

        run(main())

    def test_nobody_listens(self, any_loop, run):
        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
            with socket.socket() as client:
                client.setblocking(False)
                with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
                    await any_loop.sock_connect(client, address)

        run(main())

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
    def test_unix_sockets_by_path_and_abstract_name(self, any_loop, run, tmp_path, kind):
        async def meet(address):
            with socket.socket(socket.AF_UNIX, kind) as listener, socket.socket(socket.AF_UNIX, kind) as client:
                listener.bind(address)
                listener.listen()
                listener.setblocking(False)
                client.setblocking(False)
                await any_loop.sock_connect(client, address)
                server, _ = await any_loop.sock_accept(listener)
                with server:
                    await any_loop.sock_sendall(server, b"hello")
                    assert await any_loop.sock_recv(client, 10) == b"hello"

        async def main():
            await meet(str(tmp_path / "socket"))
            await meet(f"\0aioqemu-test-{id(any_loop)}")

        run(main())


class TestCancelling:
    def test_who_is_cancelled_has_taken_nothing(self, any_loop, run, pair):
        a, b = pair

        async def main():
            waiting = await started(any_loop, any_loop.sock_recv(a, 100))
            b.send(b"kept")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await any_loop.sock_recv(a, 100) == b"kept"
            assert any_loop.remove_reader(a) is False

        run(main())

    def test_data_that_came_before_the_cancelled_task_woke_up_is_still_there(self, loop):
        """Here the standard library loses it: it has received for a task that is cancelled then."""
        with closing(socket.socketpair()) as (a, b):

            async def main():
                waiting = await started(loop, loop.sock_recv(a, 100))
                b.send(b"kept")
                # Found ready in the turn in which the waiter is; the task itself wakes up in the next.
                with a.dup() as same:
                    loop.add_reader(same, waiting.cancel)
                    while not waiting.cancelling() if hasattr(waiting, "cancelling") else not waiting.done():
                        await asyncio.sleep(0)
                    loop.remove_reader(same)
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await loop.sock_recv(a, 100) == b"kept"

            loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))

    def test_accept_and_sendall(self, any_loop, run, streams):
        a, _ = streams

        async def main():
            with socket.create_server(("127.0.0.1", 0)) as listener:
                listener.setblocking(False)
                accepting = await started(any_loop, any_loop.sock_accept(listener))
                sending = await started(any_loop, any_loop.sock_sendall(a, bytes(10_000_000)))
                for task in (accepting, sending):
                    assert not task.done()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                assert any_loop.remove_reader(listener) is False
                assert any_loop.remove_writer(a) is False
                # The loop goes on with the same sockets.
                with socket.create_connection(listener.getsockname()):
                    (await any_loop.sock_accept(listener))[0].close()

        run(main())

    def test_both_directions_of_one_socket_at_once(self, any_loop, run, streams):
        a, b = streams

        async def main():
            receiving = await started(any_loop, any_loop.sock_recv(a, 10))
            sending = await started(any_loop, any_loop.sock_sendall(a, bytes(10_000_000)))
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            left = 10_000_000
            while left:
                left -= len(await any_loop.sock_recv(b, left))
            await sending
            b.send(b"x")
            assert await any_loop.sock_recv(a, 10) == b"x"

        run(main())


class TestWrongUse:
    @pytest.mark.usefixtures("has_datagram_calls")
    def test_a_blocking_socket_in_debug_mode(self, any_loop, run):
        a, b = socket.socketpair()
        with a, b:

            async def main():
                calls = [
                    any_loop.sock_recv(a, 1),
                    any_loop.sock_recv_into(a, bytearray(1)),
                    any_loop.sock_recvfrom(a, 1),
                    any_loop.sock_recvfrom_into(a, bytearray(1)),
                    any_loop.sock_sendto(a, b"x", "address"),
                    any_loop.sock_sendall(a, b"x"),
                    any_loop.sock_accept(a),
                    any_loop.sock_connect(a, "address"),
                ]
                for call in calls:
                    with pytest.raises(ValueError, match="the socket must be non-blocking"):
                        await call

            any_loop.set_debug(True)
            run(main())

    def test_an_ssl_socket(self, any_loop, run):
        a, b = socket.socketpair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with b, context.wrap_socket(a, do_handshake_on_connect=False) as wrapped:
            wrapped.setblocking(False)

            async def main():
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await any_loop.sock_recv(wrapped, 1)

            run(main())

    def test_bad_arguments_get_the_errors_of_the_socket_module(self, any_loop, run, streams):
        a, b = streams

        async def main():
            with pytest.raises(ValueError, match="negative buffersize"):
                await any_loop.sock_recv(a, -1)
            with pytest.raises(TypeError):
                await any_loop.sock_recv(a, "many")
            with pytest.raises(TypeError):
                await any_loop.sock_recv_into(a, b"read-only")
            with pytest.raises(TypeError):
                await any_loop.sock_sendall(a, "text")
            with pytest.raises(TypeError):
                await any_loop.sock_sendall(a, None)
            await any_loop.sock_sendall(a, b"fine")
            assert await any_loop.sock_recv(b, 10) == b"fine"

        run(main())

    def test_a_closed_or_unconnected_socket(self, any_loop, run):
        async def main():
            closed, unconnected = socket.socket(), socket.socket()
            unconnected.setblocking(False)
            closed.close()
            with unconnected:
                for sock in (closed, unconnected):
                    for call in (
                        lambda sock: any_loop.sock_recv(sock, 1),
                        lambda sock: any_loop.sock_recv_into(sock, bytearray(1)),
                        lambda sock: any_loop.sock_sendall(sock, b"x"),
                    ):
                        with pytest.raises(OSError):
                            await call(sock)

        run(main())

    def test_the_socket_of_a_transport(self, any_loop, run, streams):
        a, _ = streams

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc):
                lost.set_result(exc)

        async def main():
            transport, _ = await any_loop.create_connection(Protocol, sock=a)
            with pytest.raises(RuntimeError, match="is used by transport"):
                await any_loop.sock_recv(a, 1)
            transport.close()
            assert await lost is None

        lost = any_loop.create_future()

        run(main())


async def receive_after_waiting(loop, sock, peer, data):
    """sock_recv() begins to wait, then the peer sends."""
    waiting = await started(loop, loop.sock_recv(sock, 100))
    peer.send(data)
    assert await asyncio.wait_for(waiting, PATIENCE) == data


class TestSocketsThatWaited:
    """A monitor may go on watching a socket that will be waited for again. Nobody must notice."""

    def test_numbers_used_again(self, any_loop, run):
        async def wait_once():
            with closing(socket.socketpair()) as (a, b):
                await receive_after_waiting(any_loop, a, b, b"for the waiter")
                return a.fileno(), b.fileno()

        async def main():
            numbers = {await wait_once() for _ in range(10)}
            assert len(numbers) < 10
            with closing(socket.socketpair()) as (a, b):
                assert (a.fileno(), b.fileno()) in numbers
                came = any_loop.create_future()
                any_loop.add_reader(a, lambda: came.done() or came.set_result(a.recv(100)))
                b.send(b"for a reader")
                assert await asyncio.wait_for(came, PATIENCE) == b"for a reader"
                any_loop.remove_reader(a)
            ours, theirs = socket.socketpair()
            assert (ours.fileno(), theirs.fileno()) in numbers
            ours.setblocking(False)
            with theirs:
                reader, writer = await asyncio.open_connection(sock=ours)
                theirs.send(b"for a transport")
                assert await asyncio.wait_for(reader.readexactly(15), PATIENCE) == b"for a transport"
                writer.close()
                await writer.wait_closed()

        run(main())

    def test_the_number_of_a_socket_that_lives_on_by_another(self, any_loop, run):
        async def main():
            with contextlib.ExitStack() as stack:
                a, b = stack.enter_context(closing(socket.socketpair()))
                await receive_after_waiting(any_loop, a, b, b"first")
                number = a.fileno()
                same = stack.enter_context(a.dup())
                a.close()
                b.send(b"for the duplicate")  # the old file is readable, and nobody waits
                c, d = stack.enter_context(closing(socket.socketpair()))
                assert number in (c.fileno(), d.fileno())
                for one, other in ((c, d), (d, c)):
                    await receive_after_waiting(any_loop, one, other, b"for the new one")
                assert await any_loop.sock_recv(same, 100) == b"for the duplicate"

        run(main())

    def test_what_comes_while_nobody_waits_does_not_keep_the_loop_busy(self, any_loop, run, streams):
        a, b = streams

        async def main():
            await receive_after_waiting(any_loop, a, b, b"first")
            b.send(b"later")
            used = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - used < 0.15
            assert await any_loop.sock_recv(a, 5) == b"later"

        run(main())

    def test_a_transport_gets_a_socket_that_has_waited(self, any_loop, run, streams):
        a, b = streams

        async def main():
            await receive_after_waiting(any_loop, a, b, b"hello")
            reader, writer = await asyncio.open_connection(sock=a)
            b.send(b"world")
            assert await asyncio.wait_for(reader.readexactly(5), PATIENCE) == b"world"
            writer.close()
            await writer.wait_closed()

        run(main())
