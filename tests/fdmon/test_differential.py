"""One random script drives all monitors side by side, on the same files: they must report the same events.

The native io_uring is compared with the one in Python over python-liburing, and both with epoll and poll. A failure
names the seed, which is all that the script depends on.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct

import pytest

import aioqemu_loop
from aioqemu_loop.fdmon.base import ReadyList

NAMES = ("poll", "epoll", "io_uring", "liburing")
FILES = 8
STEPS = 150
PASSES = 10  # so many looks at the most until what is reported stays the same


class File:
    """Something to watch: `fd`, and what is needed to change its state."""

    def __init__(self, chance):
        self.kind = chance.choice(["socketpair", "pipe to read", "pipe to write", "eventfd"])
        self.extra = []  # dups of our end, which keep the file open
        if self.kind == "socketpair":
            ours, theirs = socket.socketpair()
            self.fd, self.peer = ours.detach(), theirs.detach()
        elif self.kind == "eventfd":
            notifier = aioqemu_loop.EventNotifier()
            self.fd, self.peer = os.dup(notifier.fileno()), None
        else:
            reader, writer = os.pipe()
            self.fd, self.peer = (reader, writer) if self.kind == "pipe to read" else (writer, reader)
        for fd in (self.fd, self.peer):
            if fd is not None:
                os.set_blocking(fd, False)

    def act(self, chance):
        """Change its state in some way; what it does not allow is left."""
        data = bytes(chance.choice([1, 1000, 300_000]))
        if self.kind == "eventfd":
            data = struct.pack("=Q", chance.choice([1, 2**64 - 2]))
        actions = [lambda fd=fd: os.write(fd, data) for fd in (self.fd, self.peer) if fd is not None]
        actions += [lambda fd=fd: os.read(fd, max(8, len(data))) for fd in (self.fd, self.peer) if fd is not None]
        if self.kind == "socketpair":
            actions.append(lambda: self.shutdown(chance))
        if self.peer is not None and chance.random() < 0.1:
            actions = [self.close_peer]
        with contextlib.suppress(OSError):
            chance.choice(actions)()

    def shutdown(self, chance):
        end = chance.choice([self.fd, self.peer])
        sock = socket.socket(fileno=os.dup(self.fd if end is None else end))
        try:
            sock.shutdown(chance.choice([socket.SHUT_RD, socket.SHUT_WR]))
        finally:
            sock.close()

    def close_peer(self):
        os.close(self.peer)
        self.peer = None

    def close(self):
        for fd in (self.fd, self.peer, *self.extra):
            if fd is not None:
                os.close(fd)


class Script:
    """The files, and a context for each monitor that watches them."""

    def __init__(self, names, seed):
        self.chance = random.Random(seed)
        self.contexts = {name: aioqemu_loop.AioContext(name) for name in names}
        self.files = [File(self.chance) for _ in range(FILES)]

    def close(self):
        for file in self.files:
            self.watch(file, False, False)
            file.close()
        for context in self.contexts.values():
            context.close()

    def watch(self, file, read, write):
        for context in self.contexts.values():
            context.set_fd_handler(file.fd, print if read else None, print if write else None)

    def step(self):
        place = self.chance.randrange(FILES)
        file = self.files[place]
        kind = self.chance.choices(["watch", "forget", "act", "dup", "renew", "move", "look"], [6, 2, 10, 1, 1, 1, 3])[
            0
        ]
        if kind == "watch":
            for _ in range(self.chance.choice([1, 1, 1, 3])):
                self.watch(file, *self.chance.choice([(True, False), (False, True), (True, True)]))
        elif kind == "forget":
            self.watch(file, False, False)
        elif kind == "act":
            file.act(self.chance)
        elif kind == "dup":
            file.extra.append(os.dup(file.fd))
        elif kind == "renew":  # the number is likely to be used again at once
            self.watch(file, False, False)
            file.close()
            self.files[place] = File(self.chance)
        elif kind == "move":  # another file under the same number, told to nobody before it is registered
            other = File(self.chance)
            os.dup2(other.fd, file.fd)
            os.close(other.fd)
            if file.peer is not None:
                os.close(file.peer)
            other.fd, other.extra = file.fd, file.extra
            self.files[place] = other
            self.watch(other, True, True)
        else:  # one look only: events of that moment stay unseen by some
            for context in self.contexts.values():
                context.monitor.wait(ReadyList(), 0)
        return kind

    def reported(self, name):
        """[(place of the file, events)] once that does not change any more. Before that io_uring may report what
        was."""
        places = {file.fd: place for place, file in enumerate(self.files)}
        before = None
        for _ in range(PASSES):
            ready = ReadyList()
            self.contexts[name].monitor.wait(ready, 0)
            found = [(places[handler.fd], events) for handler, events in ready.items() if handler.fd in places]
            assert len({place for place, _ in found}) == len(found), f"{name} reports a handler twice: {found}"
            if before == sorted(found):
                return before
            before = sorted(found)
        raise AssertionError(f"{name} does not come to rest")


def without_rdhup(found):
    """Rings report POLLRDHUP unasked."""
    return [(place, events & ~select.POLLRDHUP) for place, events in found]


@pytest.mark.parametrize("seed", range(25))
def test_all_monitors_report_the_same(no_leaks, seed):
    names = [name for name in NAMES if aioqemu_loop.fdmons()[name] is None]
    script = Script(names, seed)
    try:
        done = []
        for _ in range(STEPS):
            done.append(script.step())
            results = {name: script.reported(name) for name in names}
            if "liburing" in results and "io_uring" in results:
                assert results["liburing"] == results["io_uring"], (seed, done)
            for name in names[1:]:
                assert without_rdhup(results[name]) == results[names[0]], (seed, name, names[0], done)
    finally:
        script.close()
