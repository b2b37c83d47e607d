"""What programs pass to calls that take numbers, files and names: refused as the standard library does, or taken."""

from __future__ import annotations

import asyncio
import builtins
import functools
import os
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

import aioqemu_loop
from aioqemu_loop import AioContext, files
from tests.fuzz.choices import Choices

SEEDS = [bytes([kind, *b"\x03\x05\x01rb+\x00\x00"]) for kind in range(4)] + [
    b"\x01\x00\x0a\x01",
    b"\x02\x02r+",
    b"\x02\x03xyz",
]
# What may come of anything that is no number, name or file. All else is a mistake of ours.
MISTAKES = (TypeError, ValueError, OverflowError, KeyError, OSError, RuntimeError, LookupError)
FDMONS = ["poll", "epoll", "io_uring"]
MODES = ["r", "w", "x", "a", "rb", "r+", "wb+", "ab", "t", "", "rt", "rw", "U", "rbt", "r\0", "w++", "b"]


@functools.cache
def loops() -> tuple[aioqemu_loop.Loop, asyncio.AbstractEventLoop]:
    return aioqemu_loop.new_event_loop(), asyncio.SelectorEventLoop()


@functools.cache
def context(fdmon: str) -> AioContext:
    return AioContext(fdmon)


def end() -> None:
    """Closes them; who uses this target later gets new ones."""
    for loop in loops():
        loop.close()
    for fdmon in FDMONS:
        context(fdmon).close()
    loops.cache_clear()
    context.cache_clear()


@functools.cache
def folder() -> Path:
    made = tempfile.TemporaryDirectory()
    folder.made = made  # type: ignore[attr-defined]
    (Path(made.name) / "file").write_text("some text\n")
    return Path(made.name)


def outcome(call: Any, *arguments: Any, **named: Any) -> Any:
    try:
        call(*arguments, **named)
    except MISTAKES as exc:
        return type(exc)
    return None


def signals(choices: Choices) -> None:
    """Numbers of signals: as asyncio, but never one that is in use for something else here."""
    number = choices.thing() if choices.below(2) else choices.below(100)
    callback = print if choices.below(4) else choices.thing()
    if type(number) is int and number in (signal.SIGINT, signal.SIGALRM, signal.SIGCHLD, signal.SIGTERM):
        return
    mine, theirs = loops()
    got, expected = [], []
    for loop, found in ((mine, got), (theirs, expected)):
        found.append(outcome(loop.add_signal_handler, number, callback))
        found.append(outcome(loop.remove_signal_handler, number))
    assert got == expected, (number, callback, got, expected)


def descriptors(choices: Choices) -> None:
    """Files to watch."""
    fd = choices.thing() if choices.below(2) else choices.number()
    callback = print if choices.below(4) else choices.thing()
    own = choices.below(3) == 0
    mine, theirs = loops()
    read, write = os.pipe()
    try:
        fd = read if own else fd
        if not own and type(fd) is int and 0 <= fd < 64:  # somebody's
            return
        name = choices.of(["reader", "writer"])
        results = [
            [
                outcome(getattr(loop, f"{verb}_{name}"), fd, *rest)
                for verb, rest in (("add", (callback,)), ("remove", ()))
            ]
            for loop in (mine, theirs)
        ]
        assert results[0] == results[1], (fd, callback, results)
        at = context(choices.of(FDMONS))
        outcome(at.set_fd_handler, fd, callback, choices.of([None, print]))
        outcome(at.poll, False)
        outcome(at.set_fd_handler, fd, None, None)
        outcome(at.poll, False)
    finally:
        os.close(read)
        os.close(write)


def opened(choices: Choices) -> None:
    """files.open() takes what open() takes. Of several mistakes either may tell another."""
    name = "file" if choices.below(2) else choices.of(["none", "", "x" * 300, "a\0b", "no/file", "."])
    path: Any = folder() / name if choices.below(4) else choices.of([None, 1.5, -1, 1 << 40, [], Ellipsis])
    mode = choices.of(MODES) if choices.below(4) else choices.thing(0)
    named = {}
    for keyword, usual in (
        ("buffering", [-1, 0, 1, 2, 4096, -2, 1 << 40, 1 << 70, "1", None]),
        ("encoding", [None, "utf-8", "latin-1", "no such", "a\0b", b"utf-8", 5, ""]),
        ("errors", [None, "strict", "no such", 5, "a\0b", ""]),
        ("newline", [None, "", "\n", "\r\n", "x", 5, b"\n"]),
    ):
        if choices.below(3) == 0:
            named[keyword] = choices.of(usual)

    async def asynchronous() -> None:
        async with files.open(path, mode, **named):
            pass

    def blocking() -> None:
        with builtins.open(path, mode, **named):
            pass

    (folder() / "none").unlink(missing_ok=True)
    expected = outcome(blocking)
    (folder() / "none").unlink(missing_ok=True)
    got = outcome(loops()[0].run_until_complete, asynchronous())
    assert (got is None) == (expected is None), (path, mode, named, got, expected)


def timers(choices: Choices) -> None:
    """Times and delays: asyncio finds out when it compares one with another, we at once. Timers of numbers run."""
    when = choices.of([choices.thing(1), choices.number(), choices.number() / 7, float("nan"), float("inf"), -0.0])
    loop = loops()[0]
    refused = outcome(lambda: getattr(loop, choices.of(["call_later", "call_at"]))(when, print).cancel())
    assert refused is None or not isinstance(when, (int, float)) or refused is OverflowError, (when, refused)
    loop.call_later(0, loop.stop)
    loop.run_forever()


def target(data: bytes) -> None:
    choices = Choices(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choices.of([signals, descriptors, opened, timers])(choices)
