"""Bad arguments, closed and detached files: the same refusals as io's, word for word."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest

from aioqemu_loop import files

CALLS: list[tuple[str, tuple[Any, ...]]] = [
    *[("read", (argument,)) for argument in (-2, 0, "x", 1.5, None)],
    *[("read1", (argument,)) for argument in (-5, 0)],
    *[("readinto", (argument,)) for argument in (b"xx", "x", 5)],
    ("readinto1", (b"x",)),
    ("readall", ()),
    *[("readline", (argument,)) for argument in (1.5, -3, None)],
    *[("readlines", (argument,)) for argument in ("x", None)],
    ("peek", ()),
    *[("write", (argument,)) for argument in (b"x", "x", 5, None, b"")],
    *[("writelines", (argument,)) for argument in ([b"x"], ["x"], 5, [])],
    *[("seek", arguments) for arguments in ((0,), (-1,), (0, 7), ("x",), (1, 1), (1, 2), (0, 1), (0, 2))],
    ("tell", ()),
    *[("truncate", arguments) for arguments in ((3,), (-1,), ("x",), ())],
    *[(name, ()) for name in ("flush", "isatty", "seekable", "readable", "writable", "fileno", "close")],
]
ATTRIBUTES = ("name", "mode", "closed", "encoding", "errors", "newlines", "line_buffering", "closefd")
MODES = [("rb", 0), ("wb", 0), ("ab", 0), ("xb", 0), ("r+b", 0), ("w+b", 0), ("a+b", 0), ("x+b", 0)]
MODES += [(mode, -1) for mode, _ in MODES] + [(mode.replace("b", ""), -1) for mode, _ in MODES]


async def told(obtain: Any) -> Any:
    try:
        result = obtain()
        if inspect.isawaitable(result):
            result = await result
    except AttributeError:
        return AttributeError
    except TypeError as exc:
        # Its words are those of how the C code takes arguments, which changed.
        return TypeError, str(exc) if sys.version_info < (3, 12) else ""
    except Exception as exc:
        return type(exc), str(exc)
    return result


async def discarded(awaitable: Any) -> None:
    await awaitable


def same(ours: Any, theirs: Any, name: str) -> bool:
    if name == "fileno" and isinstance(theirs, int):
        return isinstance(ours, int)
    return bool(ours == theirs)


@pytest.mark.parametrize("state", ["open", "closed", "detached"])
@pytest.mark.parametrize(("mode", "buffering"), MODES)
def test_refusals_are_those_of_io(run: Any, tmp_path: Any, mode: str, buffering: int, state: str) -> None:
    if buffering == 0 and state == "detached":
        pytest.skip("io.FileIO has no detach()")
    path = tmp_path / "file"

    async def main() -> None:
        if "x" not in mode:
            path.write_bytes(b"abc\n" * 20)
        theirs: Any = open(path, mode, buffering)  # noqa: SIM115
        path.unlink()
        if "x" not in mode:
            path.write_bytes(b"abc\n" * 20)
        ours = await files.open(path, mode, buffering)
        below = [file.detach() for file in (ours, theirs)] if state == "detached" else []
        if state == "closed":
            theirs.close()
            await ours.close()
        for name, arguments in CALLS:
            if state == "open" and (name == "close" or (sys.version_info < (3, 12) and name == "write")):
                continue  # up to 3.11 io's text files write later
            if name == "read" and buffering and mode in ("wb", "ab", "xb") and not isinstance(arguments[0], int):
                continue  # io looks at the argument first, or not
            if name == "readall" and mode in ("wb", "ab", "xb"):
                continue  # io asks the kernel there
            if "b" not in mode and name == "readline" and arguments == (None,):
                continue
            if "b" not in mode and name in ("readline", "seek") and isinstance(arguments[0], (str, float)):
                continue  # io's words depend on how it is compiled
            expected = await told(lambda n=name, a=arguments: getattr(theirs, n)(*a))
            got = await told(lambda n=name, a=arguments: getattr(ours, n)(*a))
            assert same(got, expected, name), (name, arguments, got, expected)
        for name in ATTRIBUTES:
            expected = await told(lambda n=name: getattr(theirs, n))
            assert await told(lambda n=name: getattr(ours, n)) == expected, name
        assert await told(lambda: ours.__aiter__() and None) == await told(lambda: theirs.__iter__() and None)
        expected = await told(lambda: theirs.__enter__() and None)
        assert await told(lambda: discarded(ours.__aenter__())) == expected
        for file in (*below, ours, theirs):
            await told(file.close)

    run(main())


SIZES = (1 << 63, 1 << 64, 1 << 100, -(1 << 63) - 1)


@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("r+b", 0), ("rb", -1), ("r+b", -1), ("r", -1), ("r+", -1)])
def test_sizes_and_offsets_that_no_file_has(run: Any, tmp_path: Any, mode: str, buffering: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc\n" * 10)

    async def main() -> None:
        calls = [("seek", (size, whence)) for size in SIZES for whence in (0, 1, 2)]
        calls += [(name, (size,)) for size in SIZES for name in ("read", "readline", "truncate")]
        for name, arguments in calls:
            with open(path, mode, buffering) as theirs:
                expected = await told(lambda f=theirs, n=name, a=arguments: getattr(f, n)(*a))
            async with files.open(path, mode, buffering) as ours:
                got = await told(lambda f=ours, n=name, a=arguments: getattr(f, n)(*a))
            if "b" not in mode and name == "readline":
                assert got[0] is expected[0] is OverflowError  # the words are of another part of io
            else:
                assert got == expected, (name, arguments)
        assert path.stat().st_size == 40

    run(main())
