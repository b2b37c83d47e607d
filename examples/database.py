"""A database on this loop: many tasks write to SQLite by aiosqlite (pip install aiosqlite), and one reads it.

python examples/database.py [FILE]     # without FILE: in memory
"""

from __future__ import annotations

import argparse
import asyncio

import aiosqlite

import aioqemu_loop

ACCOUNTS, TRANSFERS, OPENING = 10, 200, 100


async def create(database: aiosqlite.Connection) -> None:
    await database.execute("create table if not exists account (id integer primary key, balance integer not null)")
    await database.execute("delete from account")
    await database.executemany("insert into account values (?, ?)", [(i, OPENING) for i in range(ACCOUNTS)])
    await database.commit()


async def transfer(database: aiosqlite.Connection, lock: asyncio.Lock, source: int, target: int, amount: int) -> bool:
    """False where there is not enough."""
    async with lock:  # one connection has one transaction at a time
        cursor = await database.execute(
            "update account set balance = balance - ? where id = ? and balance >= ?", (amount, source, amount)
        )
        if cursor.rowcount == 0:
            return False
        await database.execute("update account set balance = balance + ? where id = ?", (amount, target))
        await database.commit()
        return True


async def main(path: str) -> None:
    async with aiosqlite.connect(path) as database:
        await create(database)
        lock = asyncio.Lock()
        done = await asyncio.gather(
            *(transfer(database, lock, i % ACCOUNTS, (i * 7 + 3) % ACCOUNTS, 1 + i % 170) for i in range(TRANSFERS))
        )
        async with database.execute("select count(*), sum(balance), min(balance) >= 0 from account") as rows:
            count, total, sound = await rows.fetchone() or (0, 0, 0)
    print(f"{done.count(True)} of {TRANSFERS} transfers between {count} accounts")
    print(f"{total} in all, none below 0: {bool(sound)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?", default=":memory:", metavar="FILE")
    aioqemu_loop.run(main(parser.parse_args().path))
