"""psycopg 3 against a real PostgreSQL. It waits for libpq's socket with add_reader and add_writer, so the fd is not the
loop's own: libpq opens and closes it as it likes, and another connection gets the same number at once.
"""

import asyncio
import contextlib
import hashlib

import pytest

psycopg = pytest.importorskip("psycopg")


@pytest.fixture(params=["unix", "tls"])  # TCP without TLS would be the same to the loop: libpq does both
def address(request, postgres, tls):
    """Keyword arguments for psycopg.AsyncConnection.connect."""
    given = postgres.address("unix" if request.param == "unix" else "tcp")
    address = {key: given[key] for key in ("host", "port", "user")} | {"dbname": given["database"]}
    if request.param == "tls":
        return {**address, "sslmode": "verify-full", "sslrootcert": str(tls.ca)}
    return {**address, "sslmode": "disable"}


@contextlib.asynccontextmanager
async def connected(address, **options):
    connection = await psycopg.AsyncConnection.connect(**address, autocommit=True, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def one(connection, query, *arguments):
    cursor = await connection.execute(query, arguments)
    return (await cursor.fetchone())[0]


def test_queries_on_many_connections(run, address, assert_ours):
    async def main():
        assert_ours()

        async def worker(number):
            async with connected(address) as connection:
                assert await one(connection, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") == (
                    address["sslmode"] != "disable"
                )
                for i in range(50):
                    assert await one(connection, "select repeat(%s, %s)", f"{number},", i) == f"{number}," * i

        await asyncio.gather(*map(worker, range(10)))

    run(main())


def test_connections_come_and_go_on_the_same_fd(run, address):
    async def main():
        fds = set()
        for i in range(60):
            async with connected(address) as connection:
                fds.add(connection.fileno())
                assert await one(connection, "select %s::int", i) == i
        assert len(fds) < 60

    run(main())


def test_pipeline_mode(run, address):
    async def main():
        async with connected(address) as connection, connection.pipeline():
            cursors = [await connection.execute("select %s::int, repeat('x', 5000)", (i,)) for i in range(500)]
            for i, cursor in enumerate(cursors):
                assert await cursor.fetchone() == (i, "x" * 5000)

    run(main())


def test_big_bytea_both_ways(run, address, big, assert_same):
    async def main():
        async with connected(address) as connection:
            digest = await one(connection, "select sha256(%b)", big)
            assert digest == hashlib.sha256(big).digest()
            assert_same(await one(connection, "select %b::bytea", big), big)

    run(main())


def test_copy_both_ways(run, address):
    async def main():
        async with connected(address) as connection, connection.cursor() as cursor:
            await cursor.execute("create temporary table thing (id int, name text)")
            async with cursor.copy("copy thing from stdin") as copy:
                for i in range(20_000):
                    await copy.write_row((i, f"name {i}"))
            got = hashlib.sha256()
            async with cursor.copy("copy (select * from thing order by id) to stdout") as copy:
                async for piece in copy:
                    got.update(piece)
            expected = "".join(f"{i}\tname {i}\n" for i in range(20_000)).encode()
            assert got.digest() == hashlib.sha256(expected).digest()

    run(main())


def test_rows_of_a_server_side_cursor(run, address):
    async def main():
        async with (
            connected(address) as connection,
            connection.transaction(),
            connection.cursor("some_name") as cursor,
        ):
            cursor.itersize = 100
            await cursor.execute("select generate_series(1, 3000)")
            assert [row[0] async for row in cursor] == list(range(1, 3001))

    run(main())


async def sleepers(connection):
    return await one(connection, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'")


@pytest.mark.parametrize("how", ["wait_for", "cancel"])
def test_cancelled_query(run, address, how):
    async def main():
        async with connected(address) as connection, connected(address) as observer:
            for i in range(3):
                if how == "wait_for":
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(one(connection, "select pg_sleep(30)"), 0.05)
                else:
                    query = asyncio.create_task(one(connection, "select pg_sleep(30)"))
                    while not await sleepers(observer):
                        pass
                    query.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await query
                assert await one(connection, "select %s::int", i) == i
                assert await sleepers(observer) == 0

    run(main())


def test_notifications(run, address):
    async def main():
        async with connected(address) as listener, connected(address) as sender:
            await listener.execute("listen news")

            async def listen():
                got = []
                async for notification in listener.notifies(stop_after=300):
                    got.append((notification.pid, notification.payload))
                return got[:300]

            listening = asyncio.create_task(listen())
            for i in range(300):
                await sender.execute("select pg_notify('news', %s)", (f"payload {i}",))
            assert await listening == [(sender.info.backend_pid, f"payload {i}") for i in range(300)]

    run(main())


def test_connection_ended_by_the_server(run, address):
    async def main():
        async with connected(address) as connection, connected(address) as other:
            query = asyncio.create_task(one(connection, "select pg_sleep(30)"))
            while not await sleepers(other):
                pass
            assert await one(other, "select pg_terminate_backend(%s)", connection.info.backend_pid)
            with pytest.raises(psycopg.OperationalError):
                await query
            assert connection.closed
            assert await one(other, "select 1") == 1

    run(main())


def test_refused_connection(run, address):
    async def main():
        nobody = {**address, "port": 1}
        with pytest.raises(psycopg.OperationalError):
            await psycopg.AsyncConnection.connect(**nobody)

    run(main())
