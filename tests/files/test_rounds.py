"""What several tasks want done at once is done once for all of them, after each of them has asked."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files
from aioqemu_loop.files import transfers
from aioqemu_loop.files.rounds import Rounds


class Work:
    """Rounds that last until they are let go; their beginnings and ends have numbers."""

    def __init__(self) -> None:
        self.rounds = Rounds(self)
        self.begun = 0
        self.ended = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.ended = self.begun

    def ask(self) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.rounds.join())


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_those_who_ask_during_a_round_share_the_next(run: Any) -> None:
    async def main() -> None:
        work = Work()
        first = work.ask()
        await turns()
        others = [work.ask() for _ in range(10)]
        await turns()
        assert work.begun == 1 and not first.done()
        work.go_on.set()
        await asyncio.gather(first, *others)
        assert work.begun == work.ended == 2
        await work.rounds.join()
        assert work.begun == 3

    run(main())


def test_an_error_is_told_to_all_of_its_round_and_to_no_other(run: Any) -> None:
    async def main() -> None:
        work = Work()
        first = work.ask()
        await turns()
        others = [work.ask() for _ in range(3)]
        await turns()
        work.error = OSError(5, "no")
        work.go_on.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert results == [work.error] * 4 and work.begun == 2
        work.error = None
        await work.rounds.join()

    run(main())


@pytest.mark.parametrize("victims", [[0], [1], [0, 1], [2], [0, 1, 2, 3]])
def test_cancelling_some_leaves_the_others_served(run: Any, victims: list[int]) -> None:
    async def main() -> None:
        work = Work()
        asked = [work.ask()]
        await turns()
        asked += [work.ask() for _ in range(3)]
        await turns()
        for number in victims:
            asked[number].cancel()
        await turns()
        work.go_on.set()
        results = await asyncio.gather(*asked, return_exceptions=True)
        for number, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) if number in victims else result is None
        before = work.begun
        await work.rounds.join()
        assert work.begun == before + 1

    run(main())


def test_cancelling_who_was_just_chosen(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        work = Work()
        first = work.ask()
        await turns()
        chosen, last = work.ask(), work.ask()
        await turns()
        choose = Rounds._choose

        def and_cancel(self: Rounds) -> None:
            choose(self)
            chosen.cancel()  # who does not know yet

        with monkeypatch.context() as patched:
            patched.setattr(Rounds, "_choose", and_cancel)
            work.go_on.set()
            await asyncio.wait([first, chosen, last], timeout=10)
        assert chosen.cancelled() and last.done() and work.begun == work.ended == 2

    run(main())


def test_every_round_begins_after_it_was_asked_for(run: Any) -> None:
    chance = random.Random(7)
    begun = ended = 0

    async def work() -> None:
        nonlocal begun, ended
        begun += 1
        number = begun
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.1:
            raise OSError(5, "no")
        ended = number

    async def ask(rounds: Rounds) -> None:
        for _ in range(50):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            before = begun
            try:
                await rounds.join()
                assert ended > before
            except OSError:
                assert begun > before

    async def main() -> None:
        rounds = Rounds(work)
        tasks = [asyncio.ensure_future(ask(rounds)) for _ in range(20)]
        for task in tasks[:5]:
            await turns(30)
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() or task.exception() is None for task in tasks)
        assert begun < 1000  # there was something to share
        await asyncio.wait_for(ask(rounds), 10)

    run(main())


class Counting:
    """An engine that counts its syncs, each of which takes some turns."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.syncs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        await turns()
        await self._engine.fdatasync(fd)

    fsync = fdatasync


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
def test_tasks_that_write_a_log_together_share_its_syncs(run: Any, tmp_path: Path, buffering: int, name: str) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "log", "ab", buffering) as log:
            engine: Any = Counting(getattr(log, "raw", log)._engine)
            getattr(log, "raw", log)._engine = engine

            async def record(number: int) -> None:
                await log.write(b"%03d\n" % number)
                await getattr(log, name)()
                assert b"%03d\n" % number in (tmp_path / "log").read_bytes()

            await asyncio.gather(*(record(number) for number in range(100)))
            assert engine.syncs < 60
        lines = (tmp_path / "log").read_bytes().split()
        assert sorted(map(int, lines)) == list(range(100))

    run(main())


@pytest.mark.parametrize("buffering", [0, -1])
def test_closing_waits_for_all_who_wait_for_a_sync(run: Any, tmp_path: Path, buffering: int) -> None:
    async def main() -> None:
        log = await files.open(tmp_path / "log", "ab", buffering)
        raw: Any = getattr(log, "raw", log)
        raw._engine = Counting(raw._engine)
        fd = raw.fileno()
        syncs = [asyncio.ensure_future(log.fdatasync()) for _ in range(3)]
        await asyncio.sleep(0)
        await log.close()
        await asyncio.gather(*syncs)
        assert raw._engine.syncs == 2
        with pytest.raises(OSError):
            os.fstat(fd)

    run(main())


class OneCall:
    """Stands in for the call of a thread that writes and syncs: what it is told to do, at the time it is told to."""

    def __init__(self, most: int = 1 << 20, error: int = 0) -> None:
        self.most = most
        self.error = error
        self.calls = 0
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def __call__(self, fd: int, address: int, size: int, data_only: bool, memory: bytes) -> tuple[int, int]:
        self.calls += 1
        self.begun.set()
        self.go_on.wait(20)
        return os.write(fd, memory[: self.most]), self.error


def without_ring(loop: Any) -> None:
    if getattr(loop, "fdmon", None) == "io_uring":
        pytest.skip("there the ring does it")


@pytest.fixture
def one_call(any_loop: Any, monkeypatch: pytest.MonkeyPatch) -> OneCall:
    without_ring(any_loop)
    call = OneCall()
    monkeypatch.setattr(transfers, "write_and_sync_in_thread", call)
    return call


@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
@pytest.mark.parametrize("most", [1, 7, 100])
def test_what_is_buffered_is_written_and_synced_by_one_call(
    run: Any, tmp_path: Path, one_call: OneCall, name: str, most: int
) -> None:
    """Where it wrote a part only, the rest and the sync follow."""
    one_call.most = most
    one_call.go_on.set()

    async def main() -> None:
        async with files.open(tmp_path / "log", "ab") as log:
            engine: Any = Counting(log.raw._engine)
            log.raw._engine = engine
            for number in (1, 2, 3):
                await log.write(b"0123456789")
                await getattr(log, name)()
                assert (tmp_path / "log").read_bytes() == b"0123456789" * number
            assert one_call.calls == 3 and engine.syncs == (3 if most < 10 else 0)

    run(main())


def test_a_sync_that_fails_has_written_all_the_same(run: Any, tmp_path: Path, one_call: OneCall) -> None:
    one_call.error = -5
    one_call.go_on.set()

    async def main() -> None:
        async with files.open(tmp_path / "log", "ab") as log:
            await log.write(b"once")
            with pytest.raises(OSError) as caught:
                await log.fdatasync()
            assert caught.value.errno == 5
            one_call.error = 0
            await log.write(b" more")
            await log.fdatasync()
        assert (tmp_path / "log").read_bytes() == b"once more"

    run(main())


def test_cancelling_it_writes_nothing_twice(run: Any, tmp_path: Path, one_call: OneCall) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "log", "ab") as log:
            await log.write(b"once")
            task = asyncio.ensure_future(log.fdatasync())
            while not one_call.begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            other = asyncio.ensure_future(log.write(b" more"))  # waits for it
            await turns()
            assert not task.done() and not other.done()
            one_call.go_on.set()
            await asyncio.wait([task, other])
            assert task.cancelled()
        assert (tmp_path / "log").read_bytes() == b"once more"

    run(main())


def test_a_full_disk_is_told_and_nothing_is_lost(run: Any, any_loop: Any, tmp_path: Path) -> None:
    without_ring(any_loop)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async def main() -> None:
        async with files.open(tmp_path / "log", "ab") as log:
            await log.write(b"0123456789")
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
            try:
                with pytest.raises(OSError, match="File too large"):
                    await log.fdatasync()
                assert (tmp_path / "log").read_bytes() == b"0123"
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            await log.fdatasync()
            assert (tmp_path / "log").read_bytes() == b"0123456789"

    try:
        run(main())
    finally:
        signal.signal(signal.SIGXFSZ, handler)
