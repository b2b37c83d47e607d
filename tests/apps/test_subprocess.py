"""Pipelines of real programs: data through them both ways, exit codes, signals, cancellation, and no zombie left."""

import asyncio
import contextlib
import hashlib
import os
import signal
import sys

import pytest

PIPE = asyncio.subprocess.PIPE


async def spawn(*command, **options):
    return await asyncio.create_subprocess_exec(*command, **options)


@contextlib.contextmanager
def pipe():
    """The two ends of a pipe between programs; ours are closed when both have been given away."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def test_cat_sort_wc(run, assert_ours):
    lines = [f"{i * 7919 % 100_003}\n" for i in range(50_000)]
    text = "".join(lines).encode()
    environment = {"PATH": os.defpath, "LC_ALL": "C"}

    async def main():
        assert_ours()
        with pipe() as (read1, write1), pipe() as (read2, write2):
            cat = await spawn("cat", stdin=PIPE, stdout=write1)
            sort = await spawn("sort", "-n", stdin=read1, stdout=write2, env=environment)
            wc = await spawn("wc", "-lc", stdin=read2, stdout=PIPE)
        _, (counted, _) = await asyncio.gather(cat.communicate(text), wc.communicate())
        assert [int(word) for word in counted.split()] == [len(lines), len(text)]
        assert [await process.wait() for process in (cat, sort, wc)] == [0, 0, 0]

        sort = await spawn("sort", "-n", stdin=PIPE, stdout=PIPE, env=environment)
        got, _ = await sort.communicate(text)
        assert got == "".join(sorted(lines, key=int)).encode()

    run(main())


def test_streams_are_joined_by_hand(run, big):
    """cat | gzip | gzip -d, with every piece passed on by the loop."""

    async def pump(source, target):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def main():
        cat = await spawn("cat", stdin=PIPE, stdout=PIPE)
        packer = await spawn("gzip", "-1", stdin=PIPE, stdout=PIPE)
        unpacker = await spawn("gzip", "-d", stdin=PIPE, stdout=PIPE)
        pumps = [
            asyncio.create_task(pump(cat.stdout, packer.stdin)),
            asyncio.create_task(pump(packer.stdout, unpacker.stdin)),
        ]

        async def feed():
            for start in range(0, len(big), 100_000):
                cat.stdin.write(big[start : start + 100_000])
                await cat.stdin.drain()
            cat.stdin.close()

        feeding = asyncio.create_task(feed())
        got = hashlib.sha256()
        while data := await unpacker.stdout.read(65536):
            got.update(data)
        await asyncio.gather(feeding, *pumps)
        assert got.digest() == hashlib.sha256(big).digest()
        assert [await process.wait() for process in (cat, packer, unpacker)] == [0, 0, 0]

    run(main())


def test_big_data_on_all_three(run, big, assert_same):
    code = (
        "import sys; data = sys.stdin.buffer.read(); sys.stderr.buffer.write(data[::-1]); sys.stdout.buffer.write(data)"
    )

    async def main():
        process = await spawn(sys.executable, "-S", "-c", code, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate(big)
        assert_same(out, big)
        assert_same(err, big[::-1])
        assert process.returncode == 0

    run(main())


def test_many_processes_at_once(run):
    async def main():
        async def one(i):
            process = await asyncio.create_subprocess_shell(f"cat; exit {i}", stdin=PIPE, stdout=PIPE)
            out, _ = await process.communicate(f"number {i}".encode())
            assert (out, process.returncode) == (f"number {i}".encode(), i)

        for start in range(0, 60, 20):
            await asyncio.gather(*map(one, range(start, start + 20)))

    run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_signals(run, number):
    async def main():
        processes = [await spawn("sleep", "600") for _ in range(10)]
        waiting = [asyncio.create_task(process.wait()) for process in processes]
        for process in processes:
            process.send_signal(number)
        assert await asyncio.gather(*waiting) == [-number] * 10

    run(main())


def test_a_reader_that_leaves_early(run):
    async def main():
        with pipe() as (read, write):
            yes = await spawn("yes", stdout=write)
            head = await spawn("head", "-n", "1000", stdin=read, stdout=PIPE)
        out, _ = await head.communicate()
        assert out == b"y\n" * 1000
        assert await yes.wait() == -signal.SIGPIPE  # the loop keeps no end of the pipe open

    run(main())


def test_a_program_that_does_not_read_its_input(run, big):
    async def main():
        process = await spawn("true", stdin=PIPE)
        await process.communicate(big)  # the broken pipe is nobody's error
        assert process.returncode == 0

        process = await spawn("sh", "-c", "exec <&-; exit 3", stdin=PIPE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(big), 100_000):
                process.stdin.write(big[start : start + 100_000])
                await process.stdin.drain()
        process.stdin.close()
        assert await process.wait() == 3

    run(main())


@pytest.mark.parametrize("what", ["wait", "communicate", "read"])
def test_cancelled_in_the_middle(run, what):
    async def main():
        process = await spawn("cat", stdin=PIPE, stdout=PIPE)
        for i in range(20):
            work = process.stdout.read(1) if what == "read" else process.wait()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(work, 0.005)
            process.stdin.write(b"line %d\n" % i)
            assert await process.stdout.readline() == b"line %d\n" % i
        if what == "communicate":
            sleeper = await spawn("sleep", "600", stdout=PIPE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sleeper.communicate(), 0.05)
            sleeper.kill()
            assert await sleeper.wait() == -signal.SIGKILL
        process.stdin.close()
        assert await process.wait() == 0
        assert await process.stdout.read() == b""

    run(main())


def test_a_program_that_is_not_there(run):
    async def main():
        for _ in range(20):
            with pytest.raises(FileNotFoundError):
                await spawn("/nothing/here", stdin=PIPE, stdout=PIPE, stderr=PIPE)

    run(main())
