"""grpc.aio. Its core does the network on threads of its own and wakes the loop by a socket that add_reader watches."""

import asyncio
import contextlib
import hashlib

import pytest

grpc = pytest.importorskip("grpc")
aio = pytest.importorskip("grpc.aio")

HAS_FDS_OF_ITS_OWN = True  # its core's epoll sets, which it closes some time later, on any loop
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Service(grpc.GenericRpcHandler):
    """Raw bytes in and out: no code has to be generated."""

    def __init__(self, assert_ours):
        self.assert_ours = assert_ours
        self.entered = asyncio.Event()  # a call is in slow()
        self.cancelled = asyncio.Event()  # it was cancelled
        self.release = asyncio.Event()  # lets slow() answer

    def service(self, details):
        handlers = {
            "/test/echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "/test/slow": grpc.unary_unary_rpc_method_handler(self.slow),
            "/test/fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/test/count": grpc.unary_stream_rpc_method_handler(self.count),
            "/test/digest": grpc.stream_unary_rpc_method_handler(self.digest),
            "/test/both": grpc.stream_stream_rpc_method_handler(self.both),
        }
        return handlers.get(details.method)

    async def echo(self, request, context):
        self.assert_ours()
        return request

    async def slow(self, request, context):
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"done"

    async def fail(self, request, context):
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")

    async def count(self, request, context):
        for i in range(int(request)):
            yield b"%d" % i

    async def digest(self, requests, context):
        digest = hashlib.sha256()
        async for request in requests:
            digest.update(request)
        return digest.digest()

    async def both(self, requests, context):
        async for request in requests:
            yield request


@pytest.fixture(params=["tcp", "unix", "tls"])
def serving(request, assert_ours, tls, tmp_path):
    """async with serving() as (service, server, channel)."""

    @contextlib.asynccontextmanager
    async def serving():
        service, server = Service(assert_ours), aio.server(options=UNLIMITED)
        server.add_generic_rpc_handlers([service])
        if request.param == "unix":
            address = f"unix:{tmp_path}/s"
            server.add_insecure_port(address)
        elif request.param == "tls":
            credentials = grpc.ssl_server_credentials([(tls.key.read_bytes(), tls.cert.read_bytes())])
            address = f"localhost:{server.add_secure_port('127.0.0.1:0', credentials)}"
        else:
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            if request.param == "tls":
                channel = aio.secure_channel(address, grpc.ssl_channel_credentials(tls.ca.read_bytes()), UNLIMITED)
            else:
                channel = aio.insecure_channel(address, UNLIMITED)
            async with channel:
                yield service, server, channel
        finally:
            await server.stop(None)

    return serving


def test_calls(run, serving):
    async def main():
        async with serving() as (_, _, channel):
            echo = channel.unary_unary("/test/echo")

            async def worker(number):
                for i in range(30):
                    message = f"{number}: {i} ".encode() * i
                    assert await echo(message) == message

            await asyncio.gather(*map(worker, range(10)))

    run(main())


def test_streams(run, serving):
    async def main():
        async with serving() as (_, _, channel):
            got = [message async for message in channel.unary_stream("/test/count")(b"500")]
            assert got == [b"%d" % i for i in range(500)]
            call = channel.stream_stream("/test/both")()
            for i in range(200):
                await call.write(b"%d" % i)
                assert await call.read() == b"%d" % i
            await call.done_writing()
            assert await call.read() is aio.EOF

    run(main())


def test_big_messages(run, serving, big):
    async def main():
        async with serving() as (_, _, channel):
            assert hashlib.sha256(await channel.unary_unary("/test/echo")(big)).digest() == hashlib.sha256(big).digest()
            pieces = (big[start : start + 500_000] for start in range(0, len(big), 500_000))
            assert await channel.stream_unary("/test/digest")(pieces) == hashlib.sha256(big).digest()

    run(main())


def test_cancelled_calls(run, serving):
    async def main():
        async with serving() as (service, _, channel):
            for _ in range(5):
                service.entered.clear()
                service.cancelled.clear()
                call = channel.unary_unary("/test/slow")(b"")
                await service.entered.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await service.cancelled.wait()
            endless = channel.unary_stream("/test/count")(b"1000000")
            assert await endless.read() == b"0"
            endless.cancel()
            assert await channel.unary_unary("/test/echo")(b"after") == b"after"

    run(main())


def test_deadline_and_error_codes(run, serving):
    async def main():
        async with serving() as (_, _, channel):
            for method, code, options in (
                ("/test/slow", grpc.StatusCode.DEADLINE_EXCEEDED, {"timeout": 0.05}),
                ("/test/fail", grpc.StatusCode.NOT_FOUND, {}),
                ("/test/nothing", grpc.StatusCode.UNIMPLEMENTED, {}),
            ):
                with pytest.raises(aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b"", **options)
                assert caught.value.code() == code

    run(main())


def test_graceful_stop_waits_for_a_call(run, serving):
    async def main():
        async with serving() as (service, server, channel):
            call = channel.unary_unary("/test/slow")(b"")
            await service.entered.wait()
            stopping = asyncio.create_task(server.stop(20))
            await asyncio.sleep(0.01)
            assert not stopping.done()
            service.release.set()
            assert await call == b"done"
            await stopping

    run(main())
