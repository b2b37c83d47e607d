"""asyncpg against a real PostgreSQL, over TCP, over a Unix socket, and over TLS."""

import asyncio
import contextlib
import io
import sys

import pytest

asyncpg = pytest.importorskip("asyncpg")


@pytest.fixture(params=["tcp", "unix", "tls"])
def address(request, postgres, tls):
    """Keyword arguments for asyncpg.connect."""
    if request.param == "tls":
        return {**postgres.address("tcp"), "ssl": tls.client()}
    return postgres.address(request.param)


@contextlib.asynccontextmanager
async def connected(address):
    connection = await asyncpg.connect(**address)
    try:
        yield connection
    finally:
        await connection.close()


def test_queries_through_a_pool(run, address, assert_same):
    async def main():
        async with asyncpg.create_pool(**address, min_size=2, max_size=8) as pool:

            async def worker(number):
                for i in range(50):
                    row = await pool.fetchrow("select $1::int as n, repeat($2, $1) as text", i, f"{number},")
                    assert (row["n"], row["text"]) == (i, f"{number}," * i)

            await asyncio.gather(*map(worker, range(20)))
            rows = await pool.fetch("select generate_series(1, 10000)")
            assert_same([row[0] for row in rows], list(range(1, 10_001)))

    run(main())


def test_tls_is_used_when_asked_for(run, address):
    async def main():
        async with connected(address) as connection:
            encrypted = await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
            assert encrypted == bool(address["ssl"])

    run(main())


def test_concurrent_transactions(run, address):
    async def main():
        async with asyncpg.create_pool(**address, min_size=10, max_size=10) as pool:
            await pool.execute("drop table if exists account; create table account (balance int)")
            await pool.execute("insert into account values (0)")

            async def worker(number):
                for i in range(20):
                    with contextlib.suppress(ZeroDivisionError):
                        async with pool.acquire() as connection, connection.transaction():
                            # The row lock makes the others wait for this transaction's end.
                            balance = await connection.fetchval("select balance from account for update")
                            await connection.execute("update account set balance = $1", balance + 1)
                            if i % 4 == 0:
                                raise ZeroDivisionError  # rolls back

            await asyncio.gather(*map(worker, range(10)))
            assert await pool.fetchval("select balance from account") == 150

    run(main())


async def _sleepers(connection):
    return await connection.fetchval("select count(*) from pg_stat_activity where wait_event = 'PgSleep'")


@pytest.mark.parametrize("how", ["timeout", "wait_for", "cancel"])
def test_cancelled_query(run, address, how):
    async def main():
        async with connected(address) as connection, connected(address) as observer:
            for i in range(3):
                if how == "timeout":
                    with pytest.raises(asyncio.TimeoutError):
                        await connection.fetchval("select pg_sleep(30)", timeout=0.05)
                elif how == "wait_for":
                    with pytest.raises(asyncio.TimeoutError):
                        await asyncio.wait_for(connection.fetchval("select pg_sleep(30)"), 0.05)
                else:
                    query = asyncio.create_task(connection.fetchval("select pg_sleep(30)"))
                    while not await _sleepers(observer):
                        pass
                    query.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await query
                # asyncpg tells the server over a connection of its own; the next query waits for that.
                assert await connection.fetchval("select $1::int", i) == i
                assert await _sleepers(observer) == 0

    run(main())


def test_big_bytea(run, address, big, assert_same):
    async def main():
        async with connected(address) as connection:
            assert await connection.fetchval("select length($1::bytea)", big) == len(big)
            assert_same(await connection.fetchval("select $1::bytea", big), big)

    run(main())


def _rows_as_text(count):
    return "".join(f"{i}\tname {i}\n" for i in range(count)).encode()


def test_copy_in(run, address, big, assert_same):
    records = [(i, f"name {i}", big[i : i + 100]) for i in range(20_000)]
    as_text = _rows_as_text(20_000)

    async def main():
        async with connected(address) as connection:
            await connection.execute("create temporary table thing (id int, name text, data bytea)")
            assert await connection.copy_records_to_table("thing", records=records) == "COPY 20000"
            rows = await connection.fetch("select * from thing order by id")
            assert_same([tuple(row) for row in rows], records)

            async def pieces():
                for start in range(0, len(as_text), 1_000):
                    yield as_text[start : start + 1_000]

            await connection.execute("truncate thing")
            columns = ["id", "name"]
            assert await connection.copy_to_table("thing", source=pieces(), columns=columns) == "COPY 20000"
            rows = await connection.fetch("select id, name from thing order by id")
            assert_same([tuple(row) for row in rows], [record[:2] for record in records])

    run(main())


def test_copy_out(run, address, assert_same):
    async def main():
        async with connected(address) as connection:
            if sys.version_info < (3, 11) and type(connection._transport).__module__ == "asyncio.sslproto":
                pytest.skip("asyncio's TLS delivers data although reading is paused, before Python 3.11")
            query = "select i, 'name ' || i from generate_series(0, 49999) i"
            out = io.BytesIO()
            assert await connection.copy_from_query(query, output=out) == "COPY 50000"
            assert_same(out.getvalue(), _rows_as_text(50_000))

            got = bytearray()

            async def slow_reader(data):
                await asyncio.sleep(0)  # the connection pauses reading meanwhile
                got.extend(data)

            assert await connection.copy_from_query(query, output=slow_reader) == "COPY 50000"
            assert_same(got, _rows_as_text(50_000))

    run(main())


def test_listen_and_notify(run, address):
    async def main():
        async with connected(address) as listener, connected(address) as sender:
            got, complete = [], asyncio.Event()

            def on_notification(_connection, pid, channel, payload):
                got.append((pid, channel, payload))
                if len(got) == 500:
                    complete.set()

            await listener.add_listener("news", on_notification)
            for i in range(500):
                await sender.execute("select pg_notify('news', $1)", f"payload {i}")
            await complete.wait()
            pid = sender.get_server_pid()
            assert got == [(pid, "news", f"payload {i}") for i in range(500)]
            await listener.remove_listener("news", on_notification)

    run(main())


def test_connection_ended_by_the_server(run, address):
    async def main():
        async with connected(address) as connection, connected(address) as other:
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _: ended.set())
            query = asyncio.create_task(connection.fetchval("select pg_sleep(30)"))
            while not await _sleepers(other):
                pass
            assert await other.fetchval("select pg_terminate_backend($1)", connection.get_server_pid())
            # Which of the two depends on asyncpg's version.
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
                await query
            await ended.wait()
            assert connection.is_closed()
            assert await other.fetchval("select 1") == 1

    run(main())
