"""Trace events on their way from the loops' threads to clients.

A trace point calls _Hub.tell() in whichever thread it is in, which only appends to each interested client's queue. The
monitor's thread sends what is there a few times a second: a trace point costs the same whatever the clients do.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import time
from typing import TYPE_CHECKING, Any

from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.monitor import probes

if TYPE_CHECKING:
    from aioqemu_loop.monitor.session import Session

QUEUE_MAX = 2000
SEND_EVERY = 0.05  # seconds

_TraceEvent = tuple[float, str, str, dict[str, Any]]  # when, loop, name, details


class _Hub:
    """Which trace events anybody in this process wants: a loop has one tracer only."""

    def __init__(self) -> None:
        self._feeds: list[TraceFeed] = []
        self._wanted: frozenset[str] = frozenset()

    def change(self, feed: TraceFeed, names: frozenset[str]) -> None:
        others = [one for one in self._feeds if one is not feed]
        self._feeds = [*others, feed] if names else others
        feed.names = names
        self._wanted = frozenset().union(*(one.names for one in self._feeds))
        for loop in probes.loops():
            self._apply(loop)

    def forget(self) -> None:
        """In a child that was forked: its parent's clients are none of its business."""
        self._feeds = []
        self._wanted = frozenset()

    def note_loop(self, loop: Loop) -> None:
        """A loop that was made a moment ago."""
        if self._wanted:
            self._apply(loop)

    def _apply(self, loop: Loop) -> None:
        callback = functools.partial(self.tell, probes.loop_id(loop)) if self._wanted else None
        probes.set_tracer(loop, callback, self._wanted)

    def tell(self, loop_id: str, name: str, details: dict[str, Any]) -> None:
        now = time.time()
        for feed in self._feeds:
            if name in feed.names:
                feed.put((now, loop_id, name, details))


hub = _Hub()


class TraceFeed:
    """The trace events of one client."""

    def __init__(self, session: Session) -> None:
        self.names: frozenset[str] = frozenset()
        self._session = session
        self._queue: collections.deque[_TraceEvent] = collections.deque()
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None

    def choose(self, names: frozenset[str]) -> None:
        """Which events this client gets from now on."""
        if names == self.names:
            return
        hub.change(self, names)
        if names and self._timer is None:
            self._send()

    def stop(self) -> None:
        self.choose(frozenset())
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()

    def put(self, event: _TraceEvent) -> None:
        """In any thread."""
        if len(self._queue) < QUEUE_MAX:
            self._queue.append(event)
        else:
            self._lost += 1

    def _send(self) -> None:
        lost, self._lost = self._lost, 0
        self._session.lose_events(lost)
        for _ in range(len(self._queue)):
            when, loop, name, details = self._queue.popleft()
            self._session.send_event("TRACE", {"name": name, "loop": loop, "arguments": details}, when)
        again_in = max(SEND_EVERY, self._session.monitor.budget.pause())
        self._timer = asyncio.get_running_loop().call_later(again_in, self._send) if self.names else None
