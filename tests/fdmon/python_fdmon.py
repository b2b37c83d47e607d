"""An fd monitor in Python over select.poll(), written from FDMon's docstrings alone, as a user would."""

from __future__ import annotations

import fcntl
import select

from aioqemu_loop import FDMon


class PythonFDMon(FDMon):
    name = "python"

    def __init__(self):
        self.poller = select.poll()
        self.handlers = {}
        self.closed = False

    def update(self, old, new):
        if old is not None and (new is not old or new.events == 0) and self.handlers.get(old.fd) is old:
            del self.handlers[old.fd]
            self.poller.unregister(old.fd)
        if new is not None and new.events != 0:
            fcntl.fcntl(new.fd, fcntl.F_GETFD)
            self.handlers[new.fd] = new
            self.poller.register(new.fd, new.events)

    def wait(self, ready_list, timeout_ns):
        watched = dict(self.handlers)  # an fd may get another handler while this sleeps
        found = 0
        for fd, revents in self.poller.poll(None if timeout_ns < 0 else -(-timeout_ns // 1_000_000)):
            handler = watched.get(fd)
            if handler is not None and self.handlers.get(fd) is handler:
                ready_list.add(handler, revents)
                found += 1
        return found

    def close(self):
        self.closed = True
