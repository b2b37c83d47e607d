"""httpx, whose connections are anyio's streams, against an aiohttp server on the same loop."""

import asyncio
import contextlib
import hashlib

import pytest

httpx = pytest.importorskip("httpx")
web = pytest.importorskip("aiohttp.web")


class Application:
    """The handlers, and what they let a test see."""

    def __init__(self, assert_ours):
        self.assert_ours = assert_ours
        self.clients = set()
        self.entered = asyncio.Event()  # a request is in slow()
        self.left = asyncio.Event()  # it was given up
        self.web = web.Application(client_max_size=2**25)
        self.web.add_routes(
            [
                web.get("/number/{number}", self.number),
                web.post("/digest", self.digest),
                web.post("/echo", self.echo),
                web.get("/endless", self.endless),
                web.get("/slow", self.slow),
                web.get("/again/{times}", self.again),
            ]
        )

    async def number(self, request):
        self.assert_ours()
        self.clients.add(request.transport.get_extra_info("peername"))
        number = int(request.match_info["number"])
        return web.json_response({"number": number, "text": "x" * number})

    async def digest(self, request):
        digest = hashlib.sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        return web.Response(text=digest.hexdigest())

    async def echo(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        async for piece in request.content.iter_any():
            await response.write(piece)
        return response

    async def endless(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"piece of data " * 1000)
                # asyncio's TLS does not say that its connection is closing: write() would return at once for ever,
                # and the loop could not tell that the connection is lost.
                await asyncio.sleep(0)
        except ConnectionError:
            return response
        finally:
            self.left.set()

    async def slow(self, request):
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def again(self, request):
        times = int(request.match_info["times"])
        raise web.HTTPFound(f"/again/{times - 1}" if times else "/number/7")


@pytest.fixture(params=["tcp", "unix", "tls"])
def serving(request, assert_ours, tls, tmp_path):
    """async with serving() as (application, make): make(**options) is an AsyncClient for the application's server."""

    @contextlib.asynccontextmanager
    async def serving():
        application = Application(assert_ours)
        # Where a client has gone, its handler is cancelled: that is how a test sees that it has.
        runner = web.AppRunner(application.web, access_log=None, handler_cancellation=True)
        await runner.setup()
        verify = tls.client()
        options = {"trust_env": False, "timeout": 30}
        if request.param == "unix":
            path = str(tmp_path / "s")
            site = web.UnixSite(runner, path)
        else:
            context = tls.server() if request.param == "tls" else None
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        try:
            if request.param == "unix":
                options |= {"base_url": "http://localhost"}
            else:
                scheme = "https" if request.param == "tls" else "http"
                options |= {"base_url": f"{scheme}://localhost:{runner.addresses[0][1]}", "verify": verify}

            def make(limit=None):
                limits = httpx.Limits(max_connections=limit)
                if request.param == "unix":
                    transport = httpx.AsyncHTTPTransport(uds=path, limits=limits, verify=verify)
                    return httpx.AsyncClient(transport=transport, **options)
                return httpx.AsyncClient(limits=limits, **options)

            yield application, make
        finally:
            await runner.cleanup()

    return serving


def test_requests_share_a_pool_of_connections(run, serving):
    async def main():
        async with serving() as (application, make), make(limit=8) as client:

            async def worker(number):
                for i in range(number, number + 20):
                    response = await client.get(f"/number/{i}")
                    assert response.json() == {"number": i, "text": "x" * i}

            await asyncio.gather(*map(worker, range(10)))
            assert 1 <= len(application.clients) <= 8  # a Unix socket's peers have no names

    run(main())


def test_redirects_and_errors(run, serving):
    async def main():
        async with serving() as (_, make), make() as client:
            response = await client.get("/again/9", follow_redirects=True)
            assert response.json()["number"] == 7
            assert len(response.history) == 10
            assert (await client.get("/nothing")).status_code == 404

    run(main())


def test_big_bodies(run, serving, big, assert_same):
    async def pieces():
        for start in range(0, len(big), 100_000):
            yield big[start : start + 100_000]

    async def main():
        async with serving() as (_, make), make() as client:
            digest = hashlib.sha256(big).hexdigest()
            assert (await client.post("/digest", content=big)).text == digest
            assert (await client.post("/digest", content=pieces())).text == digest
            # httpx reads nothing before it has sent all, so an echo is only what fits into the sockets' buffers.
            half = big[:100_000]
            assert_same((await client.post("/echo", content=half)).content, half)

    run(main())


def test_a_stream_is_left_in_the_middle(run, serving):
    async def main():
        async with serving() as (application, make), make(limit=1) as client:
            for i in range(5):
                application.left.clear()
                got = 0
                async with client.stream("GET", "/endless") as response:
                    async for piece in response.aiter_raw():
                        got += len(piece)
                        if got > 200_000:
                            break
                await application.left.wait()
                assert (await client.get(f"/number/{i}")).json()["number"] == i  # the pool's only place is free

    run(main())


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_request_is_given_up(run, serving, how):
    async def main():
        async with serving() as (application, make), make(limit=1) as client:
            for i in range(5):
                application.entered.clear()
                application.left.clear()
                if how == "cancel":
                    request = asyncio.create_task(client.get("/slow"))
                    await application.entered.wait()
                    request.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await request
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        await client.get("/slow", timeout=httpx.Timeout(30, read=0.05))
                await application.left.wait()
                assert (await client.get(f"/number/{i}")).json()["number"] == i

    run(main())


def test_many_clients_come_and_go(run, serving):
    async def main():
        async with serving() as (_, make):

            async def worker(number):
                for i in range(5):
                    async with make() as client:
                        assert (await client.get(f"/number/{number + i}")).json()["number"] == number + i

            await asyncio.gather(*map(worker, range(8)))

    run(main())


def test_nobody_listens(run, assert_ours):
    async def main():
        assert_ours()
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("http://127.0.0.1:1/")

    run(main())
