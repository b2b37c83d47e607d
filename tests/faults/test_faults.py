"""Every system call of the loop's compiled modules fails in every way, in turn; see sweep.py for what may come of it.

What is run here is a part: docs/reliability.md tells how much was run at length, and how to run it again.
"""

from __future__ import annotations

import json

import pytest

from tests.faults.scenarios import SCENARIOS

ALL = ",".join(SCENARIOS)


@pytest.fixture
def sweep(run_child, tmp_path):
    """sweep(backends, scenarios, calls, errors, points, level): the outcomes, of at least one case."""

    def run(*arguments: object) -> dict[str, int]:
        output = run_child("-m", "tests.faults.sweep", tmp_path, *arguments)
        outcomes = json.loads(output.splitlines()[-1])["outcomes"]
        assert sum(outcomes.values()) > 0, output
        return outcomes

    return run


# By the time they take.
@pytest.mark.parametrize(
    "scenarios", ["tcp,sock,udp,file_io,pipes", "buffered,clockwork,subprocess", "unix,streams,tls,sendfile"]
)
def test_the_first_call_of_each_kind_fails(sweep, fdmon, scenarios):
    sweep(fdmon, scenarios, "all", "EINTR,EAGAIN,ENOMEM,EPERM,SHORT", 1)


@pytest.mark.parametrize(
    ("fdmon", "scenarios", "calls", "errors"),
    [
        ("epoll", "tcp,pipes,sock", "epoll_ctl,epoll_wait,accept4", "ENOMEM"),
        ("epoll", "streams", "send,recv,sendmsg", "ECONNRESET"),
        ("poll", "unix,pipes", "send,recvmsg,writev,read", "SHORT"),
        ("io_uring", "tcp,file_io", "sqe_poll,sqe_recv,sqe_send,sqe_read,sqe_write,io_uring_enter", "ENOMEM"),
        ("io_uring", "unix", "sqe_poll,sqe_recv,sqe_send,io_uring_enter", "EINTR,SHORT"),
    ],
)
def test_every_single_call_fails_in_turn(sweep, fdmon, scenarios, calls, errors):
    sweep(fdmon, scenarios, calls, errors, 0)


def test_a_fifth_of_the_calls_fails_at_random(sweep, fdmon):
    sweep(fdmon, "tcp,file_io,clockwork", "all", "EINTR,SHORT", -1)


@pytest.mark.parametrize("level", [511, 519, 601, 606])
def test_everything_works_on_older_kernels_rings(sweep, level):
    """And with faults there. 5.11 has neither multishot polls nor receives; 5.19 has no DEFER_TASKRUN."""
    sweep("io_uring", ALL, "sqe_poll,sqe_recv,io_uring_enter", "ENOMEM", 1, level)


STORIES = [
    # What was found by the sweeps: each case is the shortest that showed it.
    (
        "epoll",
        "tcp",
        "epoll_ctl",
        "ENOMEM",
        "a connection that epoll had no room for was accepted and never heard of again",
    ),
    (
        "io_uring",
        "tcp",
        "sqe_poll",
        "ENOMEM",
        "a socket or listener whose poll the kernel had no memory for was forgotten",
    ),
    ("io_uring", "unix", "sqe_send", "EINTR,ECANCELED", "a gathered send that was interrupted ended the connection"),
    (
        "epoll",
        "subprocess",
        "epoll_ctl",
        "ENOSPC",
        "a child whose pidfd could not be watched was left running, its pipes open",
    ),
    ("epoll", "udp", "recvmmsg", "EBADF", "EBADF without a closed fd left the socket open for good"),
    (
        "poll",
        "sendfile",
        "fcntl",
        "EBADF",
        "where poll could not be told less, a sendfile waited for ever",
    ),
    ("epoll", "file_io", "fstat", "EBADF", "a file that was opened at once and could not be looked at was left open"),
]


@pytest.mark.parametrize(
    ("fdmon", "scenario", "call", "errors", "story"), STORIES, ids=[story[-1] for story in STORIES]
)
def test_what_was_found(sweep, fdmon, scenario, call, errors, story):
    sweep(fdmon, scenario, call, errors, 0)
