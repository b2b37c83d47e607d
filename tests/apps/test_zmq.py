"""pyzmq's asyncio sockets. ZeroMQ says by one fd per socket, edge-triggered in its own way, that something is there:
one report that is lost, and a receiver waits for ever.
"""

import asyncio
import hashlib

import pytest

zmq = pytest.importorskip("zmq")
zmq_asyncio = pytest.importorskip("zmq.asyncio")


@pytest.fixture(params=["tcp", "ipc", "inproc"])
def bind(request, tmp_path):
    """bind(socket) -> the address it then listens on."""

    def bind(socket):
        if request.param == "tcp":
            return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"
        address = f"ipc://{tmp_path}/s" if request.param == "ipc" else "inproc://some-name"
        socket.bind(address)
        return address

    return bind


@pytest.fixture
def run_with(run, assert_ours):
    """run_with(main): await main(socket), where socket(kind, address) makes connected ones, all closed afterwards."""

    def run_with(main):
        async def with_context():
            assert_ours()
            context = zmq_asyncio.Context()
            sockets = []

            def socket(kind, address=None):
                sockets.append(context.socket(kind))
                if address is not None:
                    sockets[-1].connect(address)
                return sockets[-1]

            try:
                await main(socket)
            finally:
                for each in sockets:
                    each.close(linger=0)
                context.term()

        run(with_context())

    return run_with


def test_requests_and_replies(run_with, bind):
    async def main(socket):
        server = socket(zmq.REP)
        address = bind(server)

        async def serve():
            while True:
                await server.send(b"<" + await server.recv() + b">")

        serving = asyncio.create_task(serve())

        async def ask(number):
            client = socket(zmq.REQ, address)
            for i in range(100):
                await client.send_string(f"{number}: {i}")
                assert await client.recv() == f"<{number}: {i}>".encode()

        await asyncio.gather(*map(ask, range(5)))
        serving.cancel()

    run_with(main)


def test_router_and_dealers_with_many_under_way(run_with, bind):
    async def main(socket):
        router = socket(zmq.ROUTER)
        address = bind(router)

        async def serve():
            while True:
                await router.send_multipart(await router.recv_multipart())

        serving = asyncio.create_task(serve())

        async def flood(number):
            dealer = socket(zmq.DEALER, address)
            sent = [f"{number}: {i}".encode() for i in range(300)]

            async def send():
                for message in sent:
                    await dealer.send(message)

            sending = asyncio.create_task(send())
            assert [await dealer.recv() for _ in sent] == sent
            await sending

        await asyncio.gather(*map(flood, range(5)))
        serving.cancel()

    run_with(main)


def test_big_messages(run_with, bind, big, assert_same):
    async def main(socket):
        pull = socket(zmq.PULL)
        push = socket(zmq.PUSH, bind(pull))
        pieces = [big[i * 1_000_000 : (i + 1) * 1_000_000] for i in range(10)]
        sending = push.send_multipart(pieces)  # a future, and under way
        got = await pull.recv_multipart()
        await sending
        assert hashlib.sha256(b"".join(got)).digest() == hashlib.sha256(big).digest()
        assert [len(piece) for piece in got] == [1_000_000] * 10

    run_with(main)


def test_a_full_pipe_makes_the_sender_wait(run_with, bind):
    async def main(socket):
        pull, push = socket(zmq.PULL), socket(zmq.PUSH)
        pull.rcvhwm = push.sndhwm = 10
        push.connect(bind(pull))
        count = 2000

        async def send():
            for i in range(count):
                await push.send(b"%d " % i + b"x" * 10_000)

        sending = asyncio.create_task(send())
        for i in range(count):
            assert await pull.recv() == b"%d " % i + b"x" * 10_000
        await sending

    run_with(main)


def test_publish_and_subscribe(run_with, bind):
    async def main(socket):
        publisher = socket(zmq.XPUB)  # tells when somebody has subscribed
        address = bind(publisher)
        subscribers = [socket(zmq.SUB, address) for _ in range(5)]
        publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        for subscriber in subscribers:
            subscriber.subscribe(b"news")
            assert await publisher.recv() == b"\x01news"

        async def listen(subscriber):
            return [await subscriber.recv() for _ in range(200)]

        listeners = [asyncio.create_task(listen(subscriber)) for subscriber in subscribers]
        sent = [b"news %d" % i for i in range(200)]
        for message in sent:
            await publisher.send(b"weather")
            await publisher.send(message)
        assert await asyncio.gather(*listeners) == [sent] * 5

    run_with(main)


def test_cancelled_receivers_lose_nothing(run_with, bind):
    async def main(socket):
        pull = socket(zmq.PULL)
        push = socket(zmq.PUSH, bind(pull))
        for i in range(50):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pull.recv(), 0.002)
            await push.send(b"%d" % i)
            assert await pull.recv() == b"%d" % i

    run_with(main)


def test_poller(run_with, bind):
    async def main(socket):
        pull = socket(zmq.PULL)
        push = socket(zmq.PUSH, bind(pull))
        poller = zmq_asyncio.Poller()
        poller.register(pull, zmq.POLLIN)
        assert await poller.poll(timeout=5) == []
        for i in range(100):
            waiting = poller.poll(timeout=20_000)
            await asyncio.sleep(0)
            await push.send(b"%d" % i)
            assert await waiting == [(pull, zmq.POLLIN)]
            assert await pull.recv() == b"%d" % i

    run_with(main)
