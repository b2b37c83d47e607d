"""JSONStream and parse(): what QEMU's parser takes, and what it survives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioqemu_loop.monitor.errors import LimitExceeded, QMPError
from aioqemu_loop.monitor.parser import MAX_NESTING, MAX_TEXT, JSONStream, parse

VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
quick = settings(max_examples=60, deadline=None)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)


def texts(data: bytes, size: int = 1 << 20) -> list[bytes]:
    """What comes out of a stream that is fed `size` bytes at a time."""
    stream = JSONStream()
    found = []
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size])
        while (text := stream.next()) is not None:
            found.append(text)
    return found


@quick
@given(
    size=st.sampled_from([1, 2, 7, 1000]),
    objects=st.lists(OBJECTS, max_size=5),
    indent=st.sampled_from([None, 1]),
    between=st.sampled_from(["", " ", "\n", "\r\n"]),
)
def test_objects_come_out_as_they_went_in(
    size: int, objects: list[dict[str, Any]], indent: int | None, between: str
) -> None:
    data = between.join(json.dumps(one, indent=indent) for one in objects).encode()
    assert [parse(text) for text in texts(data, size)] == objects


@quick
@given(objects=st.lists(OBJECTS, min_size=1, max_size=3), escaped=st.booleans())
def test_unicode_and_escapes(objects: list[dict[str, Any]], escaped: bool) -> None:
    data = "".join(json.dumps(one, ensure_ascii=escaped) for one in objects).encode(errors="surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    assert [parse(text) for text in texts(data)] == objects


@quick
@given(st.binary(max_size=300))
def test_any_bytes_are_values_or_errors(data: bytes) -> None:
    for text in texts(data):
        try:
            parse(text)
        except QMPError as exc:
            assert exc.desc.startswith("Invalid JSON syntax")


@quick
@given(st.text(alphabet='{}[]":,\\ \n\t\x001ae', max_size=40))
def test_the_next_line_is_understood_after_anything(garbage: str) -> None:
    """Unless a bracket or a string is open: then one closes it or the line's end does."""
    data = garbage.encode() + b'"\n"\n' + b"}]" * 40 + b'\n{"execute": "x"}\n'
    assert parse(texts(data)[-1]) == {"execute": "x"}


def test_several_in_a_line_and_one_over_lines() -> None:
    assert texts(b'{"a":1}{"b":2} [3]\n{\n"c":\n4\n}\n') == [b'{"a":1}', b'{"b":2}', b"[3]", b'{\n"c":\n4\n}']


def test_scalars_end_with_their_line_or_before_a_bracket() -> None:
    assert texts(b'1 2\n"a{b"\nnull{"a":1}') == [b"1 2", b'"a{b"', b"null", b'{"a":1}']


def test_a_string_does_not_go_over_a_control_character() -> None:
    assert texts(b'{"execute": "abc\n{"execute": "b"}') == [b'{"execute": "abc', b'{"execute": "b"}']


def test_brackets_that_do_not_match() -> None:
    assert texts(b'{"a": [1}\n{"b": 2}') == [b'{"a": [1}', b'{"b": 2}']


def test_an_escape_that_is_cut_in_two() -> None:
    assert texts(rb'{"a": "\"}\\"}', 1) == [rb'{"a": "\"}\\"}']


def test_incomplete_is_not_told() -> None:
    assert texts(b'{"a": {"b": [1, 2]') == []


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": 1,}',
        b'\xff{"a": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b"\x00",
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(QMPError, match="Invalid JSON syntax"):
        parse(text)


def test_numbers_that_64_bits_do_not_hold_are_floats() -> None:
    assert parse(b"[18446744073709551615, 18446744073709551616, -9223372036854775809]") == [
        2**64 - 1,
        float(2**64),
        -float(2**63 + 1),
    ]


def test_nesting_has_a_limit() -> None:
    deepest = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert texts(deepest) == [deepest]
    assert parse(deepest)
    with pytest.raises(LimitExceeded, match="nested"):
        texts(b'{"a":' * (MAX_NESTING + 1))


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_size_has_a_limit(size: int) -> None:
    fits = b'{"a": "' + b"x" * (MAX_TEXT - 9) + b'"}'
    assert texts(fits, size) == [fits]
    with pytest.raises(LimitExceeded, match="larger"):
        texts(fits.replace(b"x", b"xx", 1), size)


def test_blank_lines_do_not_pile_up() -> None:
    assert texts(b"  \n" * MAX_TEXT + b"{}", 1000) == [b"{}"]
