"""examples/write_ahead_log.py: what was acknowledged is there after kill -9, in order, once; it was synced."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aioqemu_loop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "write_ahead_log.py"
KILLS = 30
TASKS = 20
DEADLINE_S = 15.0
# Each task counts on from where it was; what has returned is printed at once, with the task and its count.
CHILD = f"""
import asyncio, os, sys
import aioqemu_loop
from write_ahead_log import Store

async def main():
    store = await Store.open(sys.argv[1])

    async def task(number):
        count = int(store.values.get(str(number), "0"))
        while True:
            count += 1
            await store.set(str(number), str(count))
            os.write(1, b"%d %d\\n" % (number, count))

    await asyncio.gather(*map(task, range({TASKS})))

aioqemu_loop.run(main(), fdmon=sys.argv[2])
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_ahead_log", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Watched:
    """A file that writes down what is done with it; syncs wait for `go`, or fail."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.seen: list[str] = []
        self.go = asyncio.Event()
        self.failure: OSError | None = None

    async def write(self, data: bytes) -> int:
        written = int(await self.file.write(data[: max(1, len(data) // 2)]))  # short, as a write may be
        self.seen.append(f"write {written}")
        return written

    async def fdatasync(self) -> None:
        self.seen.append("sync begins")
        await self.go.wait()
        if self.failure:
            raise self.failure
        await self.file.fdatasync()
        self.seen.append("sync ends")

    async def close(self) -> None:
        await self.file.close()


async def watched_store(example: ModuleType, path: Path) -> tuple[Any, Watched]:
    store = await example.Store.open(str(path))
    store._file = Watched(store._file)
    return store, store._file


async def reached(condition: Callable[[], bool]) -> None:
    async def turns() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(turns(), DEADLINE_S)


def killed_after(acknowledgements: int, path: Path, fdmon: str) -> list[tuple[str, int]]:
    """Run the child until it has acknowledged so many, kill it; all that it has acknowledged by then."""
    environment = {**os.environ, "PYTHONPATH": f"{EXAMPLE.parent}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", CHILD, str(path), fdmon]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stdout and child.stderr
        lines = [child.stdout.readline() for _ in range(acknowledgements)]
        child.kill()
        lines += child.stdout.readlines()
        errors = child.stderr.read().decode()
    assert child.returncode == -9 and not errors, errors
    return [(number.decode(), int(count)) for number, count in (line.split() for line in lines)]


def counts_in(example: ModuleType, path: Path) -> dict[str, list[int]]:
    """Of each task what the log's whole lines say, in their order."""
    found: dict[str, list[int]] = {}
    for line in example.whole_lines(path.read_bytes()):
        key, value = example.json.loads(line.partition(b" ")[2])
        found.setdefault(key, []).append(int(value))
    return found


@pytest.mark.timeout(300)  # thirty processes
def test_what_was_acknowledged_survives_kill(example: ModuleType, fdmon: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    draw = random.Random(6)
    acknowledged: dict[str, int] = {}
    for _ in range(KILLS):
        for number, count in killed_after(draw.randrange(1, 300), path, fdmon):
            assert count > acknowledged.get(number, 0)
            acknowledged[number] = count
        found = counts_in(example, path)
        for number, counts in found.items():
            assert counts == list(range(1, len(counts) + 1)), number  # in order, once, none lost on the way
        assert all(len(found[number]) >= count for number, count in acknowledged.items())


def test_acknowledged_after_the_sync_and_many_by_one(
    example: ModuleType, loop: aioqemu_loop.Loop, tmp_path: Path
) -> None:
    path = tmp_path / "log"

    async def main() -> None:
        store, file = await watched_store(example, path)
        first = asyncio.create_task(store.set("first", "1"))
        await reached(lambda: "sync begins" in file.seen)
        others = [asyncio.create_task(store.set(f"key {i}", "1")) for i in range(100)]
        await asyncio.sleep(0)
        assert not first.done() and not store.values
        file.go.set()
        await asyncio.gather(first, *others)
        syncs = [event for event in file.seen if not event.startswith("write")]
        assert syncs == ["sync begins", "sync ends"] * 2
        assert file.seen[-2:] == ["sync begins", "sync ends"]  # all was written before the last sync
        assert store.syncs == 2 and len(store.values) == 101
        await store.close()
        assert counts_in(example, path) == {key: [1] for key in store.values}

    loop.run_until_complete(main())


def test_a_failed_sync_is_told_to_all_and_not_tried_again(
    example: ModuleType, loop: aioqemu_loop.Loop, tmp_path: Path
) -> None:
    async def main() -> None:
        store, file = await watched_store(example, tmp_path / "log")
        file.failure = OSError(errno.EIO, os.strerror(errno.EIO))
        tasks = [asyncio.create_task(store.set(str(i), "1")) for i in range(3)]
        await reached(lambda: "sync begins" in file.seen)
        tasks.append(asyncio.create_task(store.set("late", "1")))
        await asyncio.sleep(0)
        file.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [file.failure] * 4
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            await store.set("later", "1")
        assert not store.values and file.seen.count("sync begins") == 1
        await store.close()

    loop.run_until_complete(main())


def test_a_cancelled_task_harms_no_other(example: ModuleType, loop: aioqemu_loop.Loop, tmp_path: Path) -> None:
    async def main() -> None:
        store, file = await watched_store(example, tmp_path / "log")
        cancelled, other = (asyncio.create_task(store.set(key, "1")) for key in ("cancelled", "other"))
        await reached(lambda: "sync begins" in file.seen)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        file.go.set()
        await other
        assert cancelled.cancelled() and store.values == {"other": "1"}
        await store.close()

    loop.run_until_complete(main())


@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros"])
def test_replay_stops_at_a_torn_line(example: ModuleType, loop: aioqemu_loop.Loop, tmp_path: Path, damage: str) -> None:
    whole = b"".join(example.line_of(f"key {i}", "value\n\u20ac") for i in range(3))
    last = example.line_of("key 2", "value\n\u20ac")
    start = len(whole) - len(last)
    path = tmp_path / "log"

    async def reopened() -> None:
        store = await example.Store.open(str(path))
        assert store.values == {"key 0": "value\n\u20ac", "key 1": "value\n\u20ac"}
        assert path.read_bytes() == whole[:start]
        await store.set("key 3", "new")
        await store.close()
        store = await example.Store.open(str(path))
        assert set(store.values) == {"key 0", "key 1", "key 3"}
        await store.close()

    for at in range(start, len(whole), 7):
        data = bytearray(whole)
        if damage == "cut":
            del data[at:]
        elif damage == "flipped":
            data[at] ^= 0x10
        else:
            data[at:] = bytes(len(data) - at)
        path.write_bytes(data)
        loop.run_until_complete(reopened())


def test_it_runs_as_a_program(tmp_path: Path, fdmon: str) -> None:
    for found in (0, 100):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLE), str(tmp_path / "log")],
            capture_output=True,
            text=True,
            timeout=45,
            env={**os.environ, "PYTHONPATH": str(ROOT), "AIOQEMU_FDMON": fdmon},
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )  # slow callbacks may be told
        assert done.stdout.startswith(f"{found} values found\n1000 changes acknowledged, ")
