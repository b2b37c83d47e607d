"""redis-py's asyncio client against a real redis-server, over TCP and over a Unix socket."""

import asyncio
import contextlib

import pytest

redis = pytest.importorskip("redis.asyncio")


@contextlib.asynccontextmanager
async def client_of(url, **options):
    client = redis.from_url(url, **options)
    try:
        yield client
    finally:
        await client.aclose()


def test_set_and_get(run, redis_url):
    async def main():
        async with client_of(redis_url) as client:

            async def worker(number):
                for i in range(150):
                    key, value = f"key:{number}:{i}", f"{i}-".encode() * (number + 1)
                    assert await client.set(key, value)
                    assert await client.get(key) == value

            await asyncio.gather(*map(worker, range(20)))
            assert await client.dbsize() == 3_000

    run(main())


def test_pipeline(run, redis_url):
    async def main():
        async with client_of(redis_url) as client, client.pipeline(transaction=False) as pipeline:
            for i in range(500):
                pipeline.set(f"key:{i}", f"value {i}").get(f"key:{i}")
            answers = await pipeline.execute()
            assert answers[0::2] == [True] * 500
            assert answers[1::2] == [f"value {i}".encode() for i in range(500)]

    run(main())


def test_transactions_count_right(run, redis_url):
    async def main():
        async with client_of(redis_url) as client:

            async def worker():
                for _ in range(50):
                    async with client.pipeline(transaction=True) as pipeline:
                        await pipeline.incr("counter").incrby("counter", 9).execute()

            await asyncio.gather(*(worker() for _ in range(10)))
            assert await client.get("counter") == b"5000"

    run(main())


def test_publish_and_subscribe(run, redis_url):
    async def main():
        async with client_of(redis_url) as client:
            subscribed = asyncio.Semaphore(0)

            async def subscriber():
                async with client.pubsub() as pubsub:
                    await pubsub.subscribe("news")
                    got = []
                    async for message in pubsub.listen():
                        if message["type"] == "subscribe":
                            subscribed.release()
                            continue
                        got.append(message["data"])
                        if len(got) == 500:
                            return got

            subscribers = [asyncio.create_task(subscriber()) for _ in range(3)]
            for _ in subscribers:
                await subscribed.acquire()
            sent = [f"message {i}".encode() for i in range(500)]
            for data in sent:
                assert await client.publish("news", data) == 3
            assert await asyncio.gather(*subscribers) == [sent] * 3

    run(main())


async def blocked_in_blpop(client, other, queue):
    """A task that waits for something in the queue; the server knows."""
    waiting = asyncio.create_task(client.blpop(queue))
    while not (await other.info("clients"))["blocked_clients"]:
        assert not waiting.done()
    return waiting


def test_blpop_gets_what_is_pushed_later(run, redis_url):
    async def main():
        async with client_of(redis_url) as client:
            for i in range(100):
                waiting = await blocked_in_blpop(client, client, "queue")
                await client.rpush("queue", i)
                assert list(await waiting) == [b"queue", str(i).encode()]

    run(main())


@pytest.mark.parametrize("single_connection", [False, True], ids=["pool", "one connection"])
def test_blpop_cancelled_by_timeout(run, redis_url, single_connection):
    async def main():
        async with (
            client_of(redis_url, single_connection_client=single_connection) as client,
            client_of(redis_url) as other,
        ):
            for i in range(10):
                # Only then: redis-py swallows a cancellation that comes while it connects, on every loop.
                waiting = await blocked_in_blpop(client, other, "nothing")
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(waiting, 0.02)
                # An answer that belongs to the abandoned command would show up in one of these.
                assert await client.set("key", i)
                assert await client.get("key") == str(i).encode()
                assert await client.echo(f"after {i}") == f"after {i}".encode()
            assert not await client.exists("nothing")

    run(main())


def test_big_value(run, redis_url, big, assert_same):
    async def main():
        async with client_of(redis_url) as client:
            assert await client.set("big", big)
            assert await client.strlen("big") == len(big)
            assert_same(await client.get("big"), big)
            # Several at once: reads and writes that are each too big for the socket's buffer, side by side.
            await asyncio.gather(*(client.set(f"big:{i}", big[i:]) for i in range(3)))
            for i, value in enumerate(await asyncio.gather(*(client.get(f"big:{i}") for i in range(3)))):
                assert_same(value, big[i:])

    run(main())


def test_connection_closed_by_the_server(run, redis_url):
    async def main():
        async with client_of(redis_url) as client, client_of(redis_url) as other:
            waiting = asyncio.create_task(other.execute_command("BLPOP", "nothing", 0))
            while not (await client.info("clients"))["blocked_clients"]:
                pass
            assert await client.client_kill_filter(_type="normal", skipme=True) == 1
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await other.ping()

    run(main())
