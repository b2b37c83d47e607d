"""A plain ASGI application, and what clients ask of it: for servers that are to run on our loop."""

import asyncio
import hashlib

import httpx


class Application:
    """The ASGI application, and what it lets a test see."""

    def __init__(self, assert_ours):
        self.assert_ours = assert_ours
        self.started = asyncio.Event()
        self.stopped = False
        self.entered = asyncio.Event()  # a request is in /slow
        self.release = asyncio.Event()  # lets /slow answer
        self.left = asyncio.Event()  # the client of /endless has gone

    async def __call__(self, scope, receive, send):
        self.assert_ours()
        await getattr(self, scope["type"])(scope, receive, send)

    async def lifespan(self, scope, receive, send):
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        self.started.set()
        assert (await receive())["type"] == "lifespan.shutdown"
        self.stopped = True
        await send({"type": "lifespan.shutdown.complete"})

    async def websocket(self, scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            if event.get("text") == "leave":
                await send({"type": "websocket.close", "code": 4001, "reason": "as you wish"})
                return
            await send({"type": "websocket.send", **{key: event.get(key) for key in ("text", "bytes")}})

    async def http(self, scope, receive, send):
        name, _, argument = scope["path"].lstrip("/").partition("/")
        await send_start(send)
        await getattr(self, name)(argument, receive, send)

    async def number(self, argument, receive, send):
        await send_body(send, b"x" * int(argument))

    async def digest(self, argument, receive, send):
        digest = hashlib.sha256()
        async for piece in body_of(receive):
            digest.update(piece)
        await send_body(send, digest.hexdigest().encode())

    async def echo(self, argument, receive, send):
        pieces = [piece async for piece in body_of(receive)]
        for piece in pieces:
            await send_body(send, piece, more=True)
        await send_body(send, b"")

    async def slow(self, argument, receive, send):
        self.entered.set()
        await self.release.wait()
        await send_body(send, b"done")

    async def endless(self, argument, receive, send):
        async def pieces():
            while True:
                await send_body(send, b"piece of data " * 1000, more=True)
                await asyncio.sleep(0)

        sending = asyncio.create_task(pieces())
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            self.left.set()


async def send_start(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})


async def send_body(send, body, more=False):
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def body_of(receive):
    more = True
    while more:
        event = await receive()
        assert event["type"] == "http.request"
        yield event.get("body", b"")
        more = event.get("more_body", False)


# --- what clients ask -----------------------------------------------------------------------------


async def ask_many(client, workers=8, requests=15):
    async def worker(number):
        for i in range(number, number + requests):
            response = await client.get(f"/number/{i}")
            assert (response.status_code, response.content) == (200, b"x" * i)

    await asyncio.gather(*map(worker, range(workers)))


async def post_big(client, big):
    digest = hashlib.sha256(big).hexdigest()
    assert (await client.post("/digest", content=big)).text == digest
    answer = await client.post("/echo", content=big)
    assert hashlib.sha256(answer.content).hexdigest() == digest


async def leave_in_the_middle(client, application):
    for _ in range(5):
        application.left.clear()
        got = 0
        async with client.stream("GET", "/endless") as response:
            async for piece in response.aiter_raw():
                got += len(piece)
                if got > 200_000:
                    break
        await application.left.wait()
    await ask_many(client, 2, 10)


async def give_up(client, application):
    """Requests that are cancelled in the client while the application works on them."""
    for _ in range(5):
        application.entered.clear()
        request = asyncio.create_task(client.get("/slow"))
        await application.entered.wait()
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
    application.release.set()
    await ask_many(client, 2, 10)


async def talk_by_websocket(connect, number, messages=50):
    async with connect() as connection:
        for i in range(messages):
            message = f"{number}: {i} " * i if i % 2 else bytes([number]) * i
            await connection.send(message)
            assert await connection.recv() == message
        await connection.send("leave")
        await connection.wait_closed()
        assert (connection.close_code, connection.close_reason) == (4001, "as you wish")


def client_of(url, tls, **options):
    return httpx.AsyncClient(base_url=url, verify=tls.client(), trust_env=False, timeout=30, **options)
