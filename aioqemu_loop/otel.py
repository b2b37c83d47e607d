"""What loops count, as OpenTelemetry metrics. Needs opentelemetry-api: pip install opentelemetry-api.

Nothing is measured that the loops do not count anyway; their counters are read when somebody collects.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from aioqemu_loop._version import __version__
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.loop.registry import loops

Attributes = dict[str, "str | int | float"]
LOOP_ID = "aioqemu_loop.id"  # counts the loops of this process that were looked at, from 1 on
FDMON = "aioqemu_loop.fdmon"
BOUND = "aioqemu_loop.busy.bound"  # seconds
DIRECTION = "network.io.direction"
US = 1024e-9  # as Metrics counts them


@dataclass(frozen=True)
class Instrument:
    """How a field of Metrics is told.

    kind: "counter" only grows; "updowncounter" is an amount at this moment, which may be added up over loops; "gauge"
    may not. scale: by what the field's value is multiplied to be in `unit`.
    """

    kind: Literal["counter", "updowncounter", "gauge"]
    name: str
    unit: str
    description: str
    scale: float | None = None
    attributes: Attributes = field(default_factory=dict)


# Field of Metrics -> its instrument. Two fields may share a name; they differ by an attribute then.
INSTRUMENTS = {
    "turns": Instrument("counter", "aioqemu_loop.turns", "{turn}", "Turns in which callbacks ran"),
    "callbacks": Instrument("counter", "aioqemu_loop.callbacks", "{callback}", "Callbacks, transports' events, timers"),
    "looks": Instrument("counter", "aioqemu_loop.fdmon.looks", "{look}", "How often the fd monitor was asked"),
    "sleeps": Instrument("counter", "aioqemu_loop.fdmon.sleeps", "{sleep}", "How often the loop could sleep"),
    "waited_ns": Instrument("counter", "aioqemu_loop.idle.time", "s", "Time with nothing to do", 1e-9),
    "busy_max_ns": Instrument("gauge", "aioqemu_loop.busy.max", "s", "Longest time between two looks", 1e-9),
    "busy_histogram": Instrument(
        "counter", "aioqemu_loop.busy.periods", "{period}", f"Times between two looks, each below its {BOUND}"
    ),
    "poll_spins": Instrument("counter", "aioqemu_loop.poll_mode.spins", "{spin}", "Busy looks before a sleep"),
    "poll_hits": Instrument("counter", "aioqemu_loop.poll_mode.hits", "{hit}", "Busy looks that spared a sleep"),
    "poll_spent_ns": Instrument("counter", "aioqemu_loop.poll_mode.time", "s", "Time spent in poll mode", 1e-9),
    "system_calls": Instrument("counter", "aioqemu_loop.system_calls", "{call}", "To wait, to move bytes, to accept"),
    "bytes_received": Instrument("counter", "aioqemu_loop.io", "By", "Bytes moved", attributes={DIRECTION: "receive"}),
    "bytes_sent": Instrument("counter", "aioqemu_loop.io", "By", "Bytes moved", attributes={DIRECTION: "transmit"}),
    "connections_accepted": Instrument(
        "counter", "aioqemu_loop.connections.accepted", "{connection}", "Connections that servers accepted"
    ),
    "transports_opened": Instrument("counter", "aioqemu_loop.transports.opened", "{transport}", "Transports made"),
    "transports_closed": Instrument("counter", "aioqemu_loop.transports.closed", "{transport}", "Transports closed"),
    "handlers": Instrument("updowncounter", "aioqemu_loop.handlers", "{handler}", "File descriptors that are watched"),
    "timers": Instrument("updowncounter", "aioqemu_loop.timers", "{timer}", "Timers that are set"),
    "queued": Instrument("updowncounter", "aioqemu_loop.callbacks.queued", "{callback}", "Callbacks that wait"),
}

_ids: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()
_next_id = itertools.count(1)
_exporters: weakref.WeakKeyDictionary[MeterProvider, _Exporter] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # of the three above and of exporters' sources; threads collect, and so may signal handlers


class Instrumentation:
    """What instrument() began."""

    def __init__(self, exporter: _Exporter, loop: Loop | None) -> None:
        self._exporter = exporter
        self._loop = None if loop is None else weakref.ref(loop)

    def current_loops(self) -> list[Loop]:
        """Those that it tells of: without closed ones."""
        return [loop for loop in loops() if self._loop is None or loop is self._loop()]

    def close(self) -> None:
        """Tells of nothing any more. May be called again."""
        self._exporter.remove(self)


def instrument(loop: Loop | None = None, meter_provider: MeterProvider | None = None) -> Instrumentation:
    """Tell of `loop`, or of every loop of this process, those that are made later too, until it is closed.

    meter_provider: default the global one. What is told twice, by two calls, is counted once.
    """
    provider = metrics.get_meter_provider() if meter_provider is None else meter_provider
    with _lock:
        exporter = _exporters.get(provider)
        if exporter is None:
            exporter = _exporters[provider] = _Exporter(provider.get_meter("aioqemu_loop", __version__))
    return exporter.add(loop)


class _Exporter:
    """The instruments of a meter provider: the API can make them, but not take them back."""

    def __init__(self, meter: Meter) -> None:
        self._sources: list[Instrumentation] = []
        make = {
            "counter": meter.create_observable_counter,
            "updowncounter": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        by_name: dict[str, list[str]] = {}
        for name, about in INSTRUMENTS.items():
            by_name.setdefault(about.name, []).append(name)
        for fields in by_name.values():
            about = INSTRUMENTS[fields[0]]
            make[about.kind](about.name, [_Callback(self, fields)], about.unit, about.description)

    def add(self, loop: Loop | None) -> Instrumentation:
        source = Instrumentation(self, loop)
        with _lock:
            self._sources = [*self._sources, source]
        return source

    def remove(self, source: Instrumentation) -> None:
        with _lock:
            self._sources = [other for other in self._sources if other is not source]

    def loops(self) -> list[Loop]:
        return list(dict.fromkeys(loop for source in self._sources for loop in source.current_loops()))


class _Callback:
    """What is called when somebody collects: the observations of one instrument."""

    def __init__(self, exporter: _Exporter, fields: list[str]) -> None:
        self._exporter = exporter
        self._fields = fields

    def __call__(self, options: CallbackOptions) -> Iterator[Observation]:
        for loop in self._exporter.loops():
            counted = loop.metrics()
            attributes: Attributes = {LOOP_ID: _id_of(loop), FDMON: loop.fdmon}
            for name in self._fields:
                about = INSTRUMENTS[name]
                value = getattr(counted, name)
                if isinstance(value, tuple):
                    yield from _buckets(value, attributes)
                else:
                    scaled = value if about.scale is None else value * about.scale
                    yield Observation(scaled, {**attributes, **about.attributes})


def _buckets(counts: tuple[int, ...], attributes: Attributes) -> Iterator[Observation]:
    """How many were below each bound and not below the one before; where none were, nothing is told."""
    for i, count in enumerate(counts):
        bound = float("inf") if i == len(counts) - 1 else US * (2 << i)
        if count:
            yield Observation(count, {**attributes, BOUND: bound})


def _id_of(loop: Loop) -> int:
    with _lock:
        number = _ids.get(loop)
        if number is None:
            number = _ids[loop] = next(_next_id)
        return number
