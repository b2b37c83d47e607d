"""A soak of a second on each backend, and whether the soak's checks find what they are there for.

The real one: python -m tests.soak
"""

from __future__ import annotations

import re

import pytest

from .__main__ import soak
from .payload import HEADER, Checker, Source, Wrong
from .server import SABOTAGES
from .verdict import Limits, judge


def test_everything_at_once(fdmon: str) -> None:
    course = soak(fdmon, 1.0, connections=50, interval=0.1, limits=Limits(p99_ms=5000, memory_mb=30, fds=300))
    assert course.wrong == []
    assert course.done["held"] > 50
    assert course.done["bytes"] > 100_000


def test_what_goes_wrong_is_found() -> None:
    limits = Limits(p99_ms=50, memory_mb=5, fds=40)
    course = soak("epoll", 2.0, connections=20, interval=0.1, patience=1.0, limits=limits, sabotages=tuple(SABOTAGES))
    wrong = "\n".join(course.wrong)
    print(wrong)
    for told in (
        r"server rss_mb has grown",
        r"server fds has grown",
        r"server timer p99_ms is \d+ ms, more than 50",
        r"ZeroDivisionError",
        r"a task is left: forgotten",
        r"\d+ file descriptors are left open",
        r"the bytes of message \d+ of stream \d+ have changed|where number \d+ of stream \d+ should begin",
        r"not over after 1 s|a connection has ended before everything was back",
    ):
        assert re.search(told, wrong), told


class TestChecker:
    def test_takes_them_cut_up_anyhow(self) -> None:
        source, checker = Source(7), Checker(7)
        sent = b"".join(source.message(size) for size in (0, 1, 100, 5000))
        assert sum(checker.feed(sent[i : i + 33]) for i in range(0, len(sent), 33)) == 4
        checker.finish(4)

    @pytest.mark.parametrize("at", [0, 4, 9, 12, HEADER.size, HEADER.size + 99])
    def test_a_changed_byte(self, at: int) -> None:
        source = Source(7)
        data = bytearray(source.message(100) + source.message(100))
        data[at] ^= 1
        checker = Checker(7)
        with pytest.raises(Wrong):  # a wrong size may show only where the messages end
            checker.feed(data)
            checker.finish(2)

    @pytest.mark.parametrize("cut", [slice(0, 1), slice(20, 21), slice(0, HEADER.size + 100)])
    def test_lost_bytes(self, cut: slice) -> None:
        source = Source(7)
        data = bytearray(source.message(100) + source.message(100))
        del data[cut]
        checker = Checker(7)
        with pytest.raises(Wrong):
            checker.feed(data)
            checker.finish(2)

    def test_what_comes_twice(self) -> None:
        message = Source(7).message(100)
        with pytest.raises(Wrong, match="message 0 of stream 7 with 100 bytes where number 1 of stream 7"):
            Checker(7).feed(message * 2)

    def test_somebody_elses(self) -> None:
        with pytest.raises(Wrong, match="of stream 8"):
            Checker(7).feed(Source(8).message(100))

    def test_an_end_too_early(self) -> None:
        checker = Checker(7)
        checker.feed(Source(7).message(100)[:-1])
        with pytest.raises(Wrong, match="ends after message 0 and 115 bytes, not 1"):
            checker.finish(1)


class TestVerdict:
    def samples(self, **curves: object) -> list[dict[str, float]]:
        return [{name.replace("_", " ", 1): curve(i) for name, curve in curves.items()} for i in range(1800)]

    def test_flat_after_a_warm_up(self) -> None:
        samples = self.samples(
            client_rss_mb=lambda i: min(200, i) + i % 7,
            client_fds=lambda i: min(10_000, 100 * i) + i % 100,
            client_p99_ms=lambda i: 3000 if i % 50 == 0 else 20,
        )
        assert judge(samples, Limits()) == []

    def test_each_that_is_not(self) -> None:
        samples = self.samples(
            client_rss_mb=lambda i: 200 + i / 60,
            client_fds=lambda i: 1000 + i / 5,
            client_p99_ms=lambda i: 501,
        )
        assert judge(samples, Limits()) == [
            "client rss_mb has grown by 15.0 from 211.2",
            "client fds has grown by 180.0 from 1134.9",
            "client p99_ms is 501 ms, more than 500",
        ]

    def test_too_little_to_judge(self) -> None:
        assert judge([{}] * 3, Limits()) == ["3 samples are too few"]
