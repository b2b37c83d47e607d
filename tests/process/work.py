"""What a loop is asked to do where it might not work: connections, timers, files, threads, a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile

from aioqemu_loop import files

from ..context.helpers import in_child

SIZE = 300_000
# Of whoever uses a loop that was made before the fork.
REFUSAL = "RuntimeError: AioContext was made in another process; make a new one after fork"


def counting(size: int = SIZE) -> bytes:
    """Bytes of which none can be lost, doubled or swapped unnoticed."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def through_a_connection(data: bytes) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(data)
        writer.write_eof()
        assert await reader.read(-1) == data
        writer.close()
        await writer.wait_closed()


async def through_a_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        async with files.open(path, "wb") as file:
            await file.write(data)
        async with files.open(path, "rb") as file:
            assert await file.read() == data


async def by_timers(count: int = 20) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    ran: list[int] = []

    def callback(number: int) -> None:
        ran.append(number)
        if len(ran) == count:
            over.set_result(None)

    start = loop.time() + 0.002
    for number in reversed(range(count)):
        loop.call_at(start + number * 1e-5, callback, number)
    await over
    assert ran == list(range(count))


async def by_a_thread() -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, lambda: 42) == 42


async def by_a_process() -> None:
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


async def all_of_it(data: bytes | None = None, *more: object) -> str:
    """Returns "all"; raises what did not work."""
    data = counting() if data is None else data
    await asyncio.gather(through_a_connection(data), through_a_file(data), by_timers(), by_a_thread(), *more)
    return "all"


def told(call) -> str:
    """What a call raises, as text, or what it returned."""
    try:
        return f"returned {call()!r}"
    except RuntimeError as exc:
        return f"RuntimeError: {exc}"


def in_a_child(function) -> str:
    """in_child(), where one that hangs ends, and what nobody could raise is told besides."""

    def child() -> str:
        signal.alarm(20)
        unraisable: list[str] = []
        sys.unraisablehook = lambda args: unraisable.append(f" {args.exc_value!r} in {args.object!r}")
        return f"{function()}{''.join(unraisable)}"

    return in_child(child)
