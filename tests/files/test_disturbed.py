"""Faults that were found: what the kernel, a cancel or an audit hook does to files in the middle of an operation."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from aioqemu_loop import files
from aioqemu_loop.files.engine import engine_of


def blocks(count: int) -> bytes:
    """Each of 4 KiB, filled with its number."""
    return b"".join(bytes([number]) * 4096 for number in range(count))


@pytest.fixture
def busy(any_loop):
    """The default executor, all of whose threads wait until the test's end."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    any_loop.set_default_executor(pool)
    release = threading.Event()
    pool.submit(release.wait)
    yield pool
    release.set()


def test_the_position_moves_also_where_the_page_cache_is_passed_by(run, any_loop, tmp_path) -> None:
    """The ring itself does not move it."""
    path = tmp_path / "direct"
    path.write_bytes(blocks(64))

    async def main():
        try:
            file = await files.open(path, "rb+", 0, flags=os.O_DIRECT)
        except OSError as exc:
            pytest.skip(f"no O_DIRECT here: {exc}")
        async with file:
            for number in range(3):
                assert await file.read(4096) == bytes([number]) * 4096
                assert await file.tell() == 4096 * (number + 1)
            assert await file.read(1 << 20) == blocks(64)[3 * 4096 :]
            await file.seek(0)
            for letter in b"ABCD":
                assert await file.write(bytes([letter]) * 4096) == 4096
            assert await file.tell() == 4 * 4096
        assert path.read_bytes() == b"".join(bytes([n]) * 4096 for n in b"ABCD") + blocks(64)[4 * 4096 :]
        async with files.open(path, "rb", flags=os.O_DIRECT) as file:
            assert await file.read() == path.read_bytes()

    run(main())


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_full_disk_keeps_what_was_written_in_order(run, any_loop, tmp_path, buffering) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    data = os.urandom(3_000_000)

    async def main():
        written = 0
        with pytest.raises(OSError, match="File too large"):
            async with files.open(tmp_path / "file", "wb", buffering) as file:
                while written < len(data):
                    written += await file.write(data[written : written + 700_000])
        with pytest.raises(OSError, match="File too large"):
            await files.write_bytes(tmp_path / "whole", data)

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "file").read_bytes() == data[:1_000_000]
    assert (tmp_path / "whole").read_bytes() == data[:1_000_000]


def test_records_that_are_appended_stay_whole(run, any_loop, tmp_path) -> None:
    size = 1 << 20

    async def main():
        async with files.open(tmp_path / "log", "ab", 0) as one, files.open(tmp_path / "log", "ab", 0) as other:
            for _ in range(5):
                await asyncio.gather(one.write(b"1" * size), other.write(b"2" * size))
            assert await one.tell() in range(9 * size, 10 * size + 1)

    run(main())
    data = (tmp_path / "log").read_bytes()
    records = [data[start : start + size] for start in range(0, len(data), size)]
    assert sorted(records) == [b"1" * size] * 5 + [b"2" * size] * 5


def test_a_call_that_no_thread_has_begun_is_cancelled_at_once(run, any_loop, busy, tmp_path) -> None:
    async def main():
        for coroutine in (files.listdir(tmp_path), files.write_bytes(tmp_path / "never", b"x")):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(coroutine, 0.01)

    run(main())
    assert not (tmp_path / "never").exists()


def test_closing_a_pipe_that_another_task_reads_can_be_given_up(run, any_loop) -> None:
    reading, writing = os.pipe()

    async def main():
        file = await files.open(reading, "rb", 0)
        reader = asyncio.ensure_future(file.read(10))
        await asyncio.sleep(0.01)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(file.close(), 0.01)
        assert not file.closed
        os.write(writing, b"x")
        assert await reader == b"x"
        await file.close()

    run(main())
    os.close(writing)


def test_cancelled_temporary_files_leave_nothing(run, any_loop, no_leaks, tmp_path) -> None:
    async def main():
        for count in range(100):
            maker = files.mkstemp if count % 2 else files.mkdtemp
            task = asyncio.ensure_future(maker(dir=tmp_path))
            for _ in range(count % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                if count % 2:
                    os.close(task.result()[0])
                    os.unlink(task.result()[1])
                else:
                    os.rmdir(task.result())

    run(main())
    assert os.listdir(tmp_path) == []


def test_what_cleans_up_is_done_also_when_it_is_cancelled(run, any_loop, tmp_path) -> None:
    async def main():
        for _ in range(20):
            file = await files.NamedTemporaryFile(dir=tmp_path)
            task = asyncio.ensure_future(file.close())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        directory = await files.TemporaryDirectory(dir=tmp_path)
        task = asyncio.ensure_future(directory.cleanup())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    run(main())
    assert os.listdir(tmp_path) == []


def test_directories_are_given_by_whole_numbers(run, any_loop) -> None:
    async def main():
        for name, arguments in (("open", (".", os.O_RDONLY)), ("unlink", ("x",)), ("mkdir", ("x",))):
            with pytest.raises(TypeError):
                await getattr(engine_of(any_loop), name)(*arguments, dir_fd=1.5)

    run(main())


REFUSED = """
    import asyncio, os, sys
    import aioqemu_loop
    from aioqemu_loop import files

    refuse = False

    def hook(event, arguments):
        if refuse and event == "open":
            raise PermissionError("refused")

    async def main():
        global refuse
        async with files.open(sys.argv[2]):
            pass
        before = len(os.listdir("/proc/self/fd"))
        refuse = True
        for mode in ("r", "w", "r+") * 5:
            try:
                await files.open(sys.argv[2], mode)
            except PermissionError as exc:
                assert str(exc) == "refused"
            else:
                raise AssertionError
        refuse = False
        assert len(os.listdir("/proc/self/fd")) == before
        assert open(sys.argv[2]).read() == "kept"
        print("done")

    sys.addaudithook(hook)
    aioqemu_loop.run(main(), fdmon=sys.argv[1])
"""


def test_an_audit_hook_refuses_before_anything_happens(fdmon, tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    script = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(REFUSED), fdmon, str(path)]
    got = subprocess.run(script, capture_output=True, text=True, timeout=50)
    assert got.stdout == "done\n", got.stderr
