"""io_uring and fork (fact 7): a child holds nothing of a ring, and cannot disturb it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

import aioqemu_loop

from ..context.helpers import in_child, rebind, run_until, turns


def rings_open():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{number}"):
                found.append(number)
        except FileNotFoundError:
            continue
    return found


def test_7_a_child_holds_no_ring_and_the_parent_goes_on(context, pair):
    ours, theirs = pair
    got = []
    context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))
    turns(context)
    assert len(rings_open()) == 1
    assert in_child(rings_open) == "[]"
    theirs.send(b"x")
    run_until(context, lambda: got)
    context.set_fd_handler(ours)


def test_7_what_a_child_does_to_its_copies_is_not_submitted_by_the_parent(context, pair):
    ours, theirs = pair
    got = []
    context.set_fd_handler(ours, lambda: got.append(ours.recv(10)))

    def child():
        for call in (context.poll, lambda: context.set_fd_handler(ours)):
            try:
                call()
            except RuntimeError:
                continue
            return "no error"
        context.close()
        return "refused"

    assert in_child(child) == "refused"
    theirs.send(b"x")
    run_until(context, lambda: got)
    context.set_fd_handler(ours)


def test_7_a_child_that_lives_on_does_not_keep_the_port(context):
    listener = socket.create_server(("127.0.0.1", 0))
    context.set_fd_handler(listener, lambda: None)
    turns(context)
    ready, ready_child = os.pipe()
    stop_child, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        listener.close()  # its own copy; the ring's is the question
        os.close(stop)
        os.write(ready_child, b"x")
        os.read(stop_child, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        context.set_fd_handler(listener)
        rebind(listener)
    finally:
        os.close(stop)
        os.waitpid(pid, 0)
        for fd in (ready, ready_child, stop_child):
            os.close(fd)


def test_7_the_maps_are_not_in_the_child(context):
    maps = Path("/proc/self/maps")
    assert "anon_inode:[io_uring]" in maps.read_text()
    assert in_child(lambda: "anon_inode:[io_uring]" in maps.read_text()) == "False"


def test_7_a_loop_that_is_forked_in_a_coroutine_lets_the_child_make_its_own(loop):
    def child():
        asyncio._set_running_loop(None)
        return aioqemu_loop.run(asyncio.sleep(0.001, "result"), fdmon="io_uring")

    async def main():
        return in_child(child)

    assert loop.run_until_complete(main()) == "result"


@pytest.mark.parametrize("backend", ["io_uring", "epoll", "poll"])
def test_no_fd_is_inherited_by_programs(backend, no_leaks):
    before = set(os.listdir("/proc/self/fd"))
    loop = aioqemu_loop.new_event_loop(fdmon=backend)
    loop.run_until_complete(asyncio.sleep(0))
    new = []
    for number in set(os.listdir("/proc/self/fd")) - before:
        try:
            new.append(os.get_inheritable(int(number)))
        except OSError:  # the listing's own
            continue
    assert new and not any(new)
    loop.close()
