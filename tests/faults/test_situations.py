"""Single situations of children.py: listeners without resources, rings that are half there."""

from __future__ import annotations

import os

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def situation(run_child):
    """situation(name, *arguments): its output."""
    return lambda *arguments: run_child("-m", "tests.faults.children", *arguments)


def test_accept_fails_for_some_time(situation, fdmon):
    """The loop span on errors that are not asyncio's four "out of system resource", such as EINVAL after a shutdown()
    of the listener, and on those that belong to one connection where each had one (EPERM by a seccomp profile)."""
    situation("accept_fails", fdmon)


def test_a_listener_comes_back_when_the_shortage_is_over(situation, fdmon):
    """It was given up for good where the monitor had no room for it at the end of the pause."""
    situation("accept_under_a_shortage_that_lasts", fdmon)


def test_a_thousand_paused_readers(situation, fdmon):
    situation("paused_readers", fdmon)


@pytest.mark.parametrize("level", [511, 519])
def test_connections_made_together_on_an_old_kernel(situation, level):
    """5.11 has no multishot polls, and says so of each. Only the first was asked for again in another way; where memory
    was short for the wake-up's, which is alone, that was one of several."""
    situation("first_polls", level)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_io_uring_is_denied_while_a_ring_is_in_use(situation, error):
    """The error came out of run_forever(), as it should, but then also out of close(), which left everything open."""
    situation("ring_denied_later", error)


@needs_root
@pytest.mark.parametrize("kib", [0, 64])
def test_a_user_without_lockable_memory_works(situation, kib):
    output = situation("workload_as_user", kib)
    if kib:
        assert output.startswith("io_uring")
    else:
        assert output.startswith("epoll over RLIMIT_MEMLOCK")


@pytest.mark.parametrize("level", [511, 519])
def test_the_completion_queue_overflows_all_the_time(situation, level):
    """Where work is not deferred to the enter that asks for it, all completions of a turn come at once."""
    rounds, overflowed = situation("overflow", level, 1).split()
    assert int(rounds) > 1
    assert overflowed == "True"
