"""aiosqlite: each connection is a thread that answers by call_soon_threadsafe, so this is about waking the loop."""

import asyncio
import contextlib
import sqlite3
import threading

import pytest

aiosqlite = pytest.importorskip("aiosqlite")

# Calls enter() once, in its first step.
ENDLESS = """
    with recursive n(i) as (select enter() union all select i + 1 from n)
    select count(*) from n
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.db"


async def one(connection, query, *arguments):
    async with connection.execute(query, arguments) as cursor:
        return (await cursor.fetchone())[0]


def test_queries_from_many_tasks(run, path, assert_ours):
    async def main():
        assert_ours()
        async with aiosqlite.connect(path) as connection:
            await connection.execute("create table thing (id integer primary key, name text)")

            async def worker(number):
                for i in range(40):
                    n = number * 40 + i
                    await connection.execute("insert into thing values (?, ?)", (n, f"name {n}"))
                    assert await one(connection, "select name from thing where id = ?", n) == f"name {n}"

            await asyncio.gather(*map(worker, range(20)))
            await connection.commit()
            async with connection.execute("select * from thing order by id") as cursor:
                assert [row async for row in cursor] == [(i, f"name {i}") for i in range(800)]

    run(main())


def test_many_connections_at_once(run, path):
    async def main():
        async with aiosqlite.connect(path) as connection:
            await connection.execute("pragma journal_mode = wal")
            await connection.execute("create table counter (n integer)")
            await connection.execute("insert into counter values (0)")
            await connection.commit()

        async def worker(number):
            async with aiosqlite.connect(path, timeout=25) as connection:
                for _ in range(10):
                    await connection.execute("update counter set n = n + 1")
                    await connection.commit()

        await asyncio.gather(*map(worker, range(8)))
        async with aiosqlite.connect(path) as connection:
            assert await one(connection, "select n from counter") == 80

    run(main())


def test_functions_in_python_run_on_the_connection_s_thread(run):
    async def main():
        threads = set()

        def double(n):
            threads.add(threading.current_thread())
            return 2 * n

        async with aiosqlite.connect(":memory:") as connection:
            await connection.create_function("double", 1, double)
            for i in range(200):
                assert await one(connection, "select double(?)", i) == 2 * i
        assert len(threads) == 1
        assert threading.current_thread() not in threads

    run(main())


def test_a_cancelled_query_does_not_mix_up_the_answers(run):
    async def main():
        async with aiosqlite.connect(":memory:") as connection:
            for i in range(50):
                query = asyncio.create_task(one(connection, "select 'abandoned'"))
                await asyncio.sleep(0)
                query.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await query
                assert await one(connection, "select ?", i) == i

    run(main())


def test_interrupted_query(run):
    async def main():
        loop = asyncio.get_running_loop()
        entered = asyncio.Event()

        def enter():  # on the connection's thread
            loop.call_soon_threadsafe(entered.set)
            return 1

        async with aiosqlite.connect(":memory:") as connection:
            await connection.create_function("enter", 0, enter)
            for _ in range(5):
                entered.clear()
                query = asyncio.create_task(one(connection, ENDLESS))
                await entered.wait()
                await connection.interrupt()
                with pytest.raises(sqlite3.OperationalError, match="interrupted"):
                    await query
                assert await one(connection, "select 1") == 1

    run(main())


def test_backup_while_the_loop_works(run, path):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async with aiosqlite.connect(path) as source, aiosqlite.connect(":memory:") as target:
            await source.execute("create table thing (data blob)")
            await source.executemany("insert into thing values (?)", ((bytes([i]) * 4096,) for i in range(200)))
            await source.commit()
            ticking = asyncio.create_task(tick())
            await source.backup(target, pages=5)
            ticking.cancel()
            assert ticks
            async with target.execute("select data from thing order by rowid") as cursor:
                assert [row[0] async for row in cursor] == [bytes([i]) * 4096 for i in range(200)]

    run(main())
