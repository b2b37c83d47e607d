"""Random scripts of operations on a file of ours and on io's: results, exceptions and the file must be the same."""

from __future__ import annotations

import inspect
import os
import random
from pathlib import Path
from typing import Any

import pytest

from aioqemu_loop import files

BINARY = b"one\ntwo \r\n\n" + bytes(range(256)) * 3 + b"\nthe last line"
BUFFERS = (-1, 2, 7, 64, 8192)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "ascii", "utf-7", "shift_jis", "cp1252")
NEWLINES = (None, "", "\n", "\r", "\r\n")


async def outcome(file: Any, name: str, *arguments: Any) -> Any:
    """What the method returns, awaited if it is ours; or the exception's type and text."""
    try:
        result = getattr(file, name)(*arguments)
        if inspect.isawaitable(result):
            result = await result
    except AttributeError:
        return AttributeError
    except Exception as exc:
        return type(exc).__name__, str(exc)
    if isinstance(result, (bytearray, memoryview)):
        return bytes(result)
    return result


def binary_operation(chance: random.Random) -> tuple[str, tuple[Any, ...]]:
    size = chance.choice((0, 1, 2, 3, 10, 50, 300, 10_000))
    data = chance.choice((b"x", b"\n", b"some\nlines\n", bytes(chance.randrange(200)), b"y" * 70, b""))
    return chance.choice(
        (
            ("read", (size,)),
            ("read", (size,)),
            ("readline", ()),
            ("readline", (size,)),
            ("readlines", (size,)),
            ("readinto", (size,)),
            ("readinto1", (size,)),
            ("read1", (size,)),
            ("read", ()),
            ("peek", ()),
            ("write", (data,)),
            ("write", (data,)),
            ("write", (memoryview(data),)),
            ("writelines", ([data, b"w"],)),
            ("tell", ()),
            ("seek", (size,)),
            ("seek", (chance.randrange(-5, 5), os.SEEK_CUR)),
            ("seek", (-size, os.SEEK_END)),
            ("truncate", ()),
            ("truncate", (size,)),
            ("flush", ()),
        )
    )


async def perform(file: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    if name.startswith("readinto"):
        space = bytearray(arguments[0])
        return await outcome(file, name, space), bytes(space)
    return await outcome(file, name, *arguments)


def assert_same_contents(paths: tuple[str, str]) -> None:
    assert Path(paths[0]).read_bytes() == Path(paths[1]).read_bytes()


async def compare(ours: Any, theirs: Any, operations: list[Any], paths: tuple[str, str]) -> None:
    done = []
    for name, arguments in operations:
        done.append((name, arguments))
        expected = await perform(theirs, name, arguments)
        assert await perform(ours, name, arguments) == expected, done
        if name == "flush" or isinstance(expected, tuple):
            assert (await outcome(ours, "tell")) == (await outcome(theirs, "tell")), done
        if name == "flush" and expected is None and await ours.writable():
            assert_same_contents(paths)
            positions = [os.lseek(file.fileno(), 0, os.SEEK_CUR) for file in (ours, theirs)]
            assert positions[0] == positions[1], done


@pytest.mark.parametrize("mode", ["rb", "wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"])
def test_binary(run: Any, tmp_path: Any, mode: str) -> None:
    async def script(seed: int) -> None:
        chance = random.Random(seed)
        paths = (str(tmp_path / f"ours{seed}"), str(tmp_path / f"theirs{seed}"))
        if "x" not in mode:
            for path in paths:
                with open(path, "wb") as file:
                    file.write(BINARY)
        buffering = chance.choice((*BUFFERS, 0))
        operations = [binary_operation(chance) for _ in range(40)]
        if buffering == -1 or "+" in mode:
            # How much it reads ahead is its own affair.
            operations = [operation for operation in operations if operation[0] not in ("peek", "read1")]
        if "a+" in mode:
            # Without that, io's buffer and the file disagree about where one is.
            operations = [step for operation in operations for step in (("flush", ()), operation)]
        with open(paths[1], mode, buffering) as theirs:
            async with files.open(paths[0], mode, buffering) as ours:
                await compare(ours, theirs, operations, paths)
        assert_same_contents(paths)

    async def main() -> None:
        for seed in range(15):
            await script(seed)

    run(main())


def text_operation(chance: random.Random, cookies: list[int]) -> tuple[str, tuple[Any, ...]]:
    size = chance.choice((1, 2, 3, 10, 50, 300, 10_000))
    data = chance.choice(("x", "\n", "some\nlines\r\n", "y" * 70, "", "lone\rfeed", "z\r"))
    return chance.choice(
        (
            ("read", (size,)),
            ("read", (size,)),
            ("readline", ()),
            ("readline", (size,)),
            ("readlines", ()),
            ("read", ()),
            ("write", (data,)),
            ("write", (data,)),
            ("writelines", ([data, "w"],)),
            ("tell", ()),
            ("tell", ()),
            ("seek", (chance.choice(cookies),)),
            ("seek", (0, os.SEEK_CUR)),
            ("seek", (0, os.SEEK_END)),
            ("truncate", ()),
            ("flush", ()),
        )
    )


async def compare_text(ours: Any, theirs: Any, chance: random.Random, writes: bool) -> None:
    cookies = [0]
    done = []
    for _ in range(40):
        name, arguments = text_operation(chance, cookies)
        if name in ("write", "writelines", "truncate") and not writes:
            continue
        if name == "readlines" and not await ours.readable():  # io's tell() stays disabled
            continue
        done.append((name, arguments))
        expected = await perform(theirs, name, arguments)
        got = await perform(ours, name, arguments)
        if name == "tell" and isinstance(expected, int):
            # The same place can be told in several ways: what counts is that both understand both.
            for cookie in {got, expected}:
                await theirs_and_ours_agree(ours, theirs, cookie, done)
            cookies.append(got)
        elif name == "seek" and isinstance(expected, int):
            assert isinstance(got, int), (got, done)
        else:
            assert got == expected, done
        if isinstance(expected, tuple) and expected[0].startswith("Unicode"):
            break  # io loses what it had decoded before; ours does not
        if writes and name.startswith("write"):
            # Up to 3.11 io reads on before it writes this.
            assert await outcome(ours, "flush") == await outcome(theirs, "flush")
        if not {"seek", "tell"} & {name for name, _ in done}:  # there io forgets some
            assert ours.newlines == theirs.newlines, done


async def theirs_and_ours_agree(ours: Any, theirs: Any, cookie: int, done: Any) -> None:
    assert await outcome(ours, "seek", cookie) == cookie, done
    assert await outcome(theirs, "seek", cookie) == cookie, done
    assert await outcome(ours, "read", 5) == await outcome(theirs, "read", 5), (done, cookie)
    await outcome(ours, "seek", cookie)
    await outcome(theirs, "seek", cookie)


def sample_text(encoding: str, chance: random.Random) -> str:
    letters = "ab\n\r" if encoding in ("ascii",) else "aé\n\r" if encoding in ("latin-1", "cp1252") else "aあ\n\r漢"
    if encoding.startswith("utf"):
        letters += "\U0001f600"
    return "".join(chance.choice((*letters, "\r\n", "word ")) for _ in range(chance.choice((0, 5, 100, 9000))))


@pytest.mark.parametrize("mode", ["r", "w", "a", "x", "r+", "w+"])
def test_text(run: Any, tmp_path: Any, mode: str) -> None:
    async def script(seed: int) -> None:
        chance = random.Random(seed)
        paths = (str(tmp_path / f"ours{seed}"), str(tmp_path / f"theirs{seed}"))
        encoding, newline = chance.choice(ENCODINGS), chance.choice(NEWLINES)
        text = sample_text(encoding, chance)
        if "x" not in mode:
            for path in paths:
                with open(path, "w", encoding=encoding, newline="") as file:
                    file.write(text)
        arguments = (mode, chance.choice((-1, 1, 16, 100_000)), encoding, "strict", newline)
        with open(paths[1], *arguments) as theirs:
            async with files.open(paths[0], *arguments) as ours:
                await compare_text(ours, theirs, chance, mode != "r")
        assert_same_contents(paths)

    async def main() -> None:
        for seed in range(int(os.environ.get("N", 100))):
            try:
                await script(seed)
            except AssertionError as exc:
                raise AssertionError(f"seed {seed}") from exc

    run(main())
