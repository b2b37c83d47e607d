"""The registry: every workload by name, its kind and its parameters. The runners know how a kind is measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

SIZES = {"64B": 64, "1KiB": 1024, "64KiB": 65536}
CONNECTIONS = (1, 4, 50, 500)
DEFAULT_SHAPES = {(1, "1KiB"), (50, "1KiB"), (50, "64KiB")}  # of echo workloads; the others come with --full
ECHO_MODES = ("protocol", "buffered", "streams", "sock")
BULK_CHUNK = 65536
IDLE = 10_000
PACES = (1000, 10_000, 50_000)  # messages per second


@dataclass(frozen=True)
class Workload:
    """What every kind has: `name` for patterns, and what an operation is."""

    name: str
    operation: str = field(default="operation", kw_only=True)
    default: bool = field(default=True, kw_only=True)  # False: only with --full, or when a pattern asks for it


@dataclass(frozen=True)
class Inside(Workload):
    """One process on one CPU does the operations and times itself; with a service it is the client of that."""

    case: str  # of bench.inside
    service: str | None = None  # of bench.services
    waits: bool = True  # the loop has to ask the kernel; False: its backend and poll mode make no difference


@dataclass(frozen=True)
class Served(Workload):
    """A server process of the loop under test, and a load program in C on another CPU."""

    mode: str  # of bench.servers
    program: str  # of native/
    load: tuple[tuple[str, int], ...]  # its options
    transport: str = "tcp"  # or "unix", "udp"
    tls: bool = False
    limit: bool = False  # the C servers can serve it too


@dataclass(frozen=True)
class Http(Workload):
    """A web server on the loop under test, and wrk on another CPU."""

    app: str  # of bench.web
    path: str
    tls: bool = False


def registry() -> list[Workload]:
    return [*_inside(), *_echo(), *_streams(), *_tls(), *_http()]


def chosen(patterns: list[str], full: bool) -> list[Workload]:
    """Without patterns the default ones, or all; with patterns those that match any of them."""
    everything = registry()
    if not patterns:
        return [workload for workload in everything if full or workload.default]
    return [workload for workload in everything if any(fnmatchcase(workload.name, one) for one in patterns)]


def _load(**options: int) -> tuple[tuple[str, int], ...]:
    return tuple(options.items())


def _inside() -> Iterator[Workload]:
    for case in (
        "call_soon",
        "call_soon_2",
        "call_soon_5",
        "call_soon_threadsafe",
        "timer_cancel",
        "sleep_0",
        "future",
        "task",
        "gather_200",
    ):
        yield Inside(f"scheduling/{case}", case, waits=False)
    for case in ("timers_fired", "chain_with_idle_connections", "thread_round_trip", "run_in_executor"):
        yield Inside(f"scheduling/{case}", case)
    for case in ("reader_ping_pong", "pipe", "spawn", "getaddrinfo", "getaddrinfo_stream"):
        yield Inside(f"system/{case}", case)
    yield Inside("client/echo_protocol", "echo_protocol", "echo")
    yield Inside("client/echo_streams", "echo_streams", "echo")
    yield Inside("client/redis_get", "redis_get", "redis", operation="GET")
    yield Inside("client/asyncpg_select", "asyncpg_select", "postgres", operation="query")


def _echo() -> Iterator[Workload]:
    for transport, mode, size, connections in itertools.product(("tcp", "unix"), ECHO_MODES, SIZES, CONNECTIONS):
        yield Served(
            f"{transport}/{mode}/{connections}x{size}",
            mode,
            "load_echo",
            _load(connections=connections, size=SIZES[size]),
            transport,
            limit=mode == "protocol",
            operation="message",
            default=(connections, size) in DEFAULT_SHAPES,
        )
    for size_b in (64, 1200):
        load = _load(connections=50, size=size_b)
        yield Served(f"udp/50x{size_b}B", "datagram", "load_echo", load, "udp", operation="datagram")
    for pace in PACES:  # what poll mode costs; --unpinned
        load = _load(connections=8, size=64, pace=pace)
        yield Served(f"pace/{pace}", "protocol", "load_echo", load, operation="message", limit=True, default=False)
    load = _load(connections=1, size=1024, idle=IDLE)
    yield Served(f"idle/{IDLE}", "protocol", "load_echo", load, operation="message", limit=True)


def _streams() -> Iterator[Workload]:
    for count in (1, 8, 64):
        load = _load(connections=50, size=64, reply=64 * count)
        yield Served(f"writelines/{count}", f"writelines-{count}", "load_echo", load, operation="answer")
    for name, mode, up, down in (("up", "swallow", 1, 0), ("down", "pour", 0, 1), ("both", "pour", 1, 1)):
        load = _load(connections=1, size=BULK_CHUNK, up=up, down=down)
        yield Served(f"bulk/{name}", mode, "load_bulk", load, operation="MiB")
        if name != "both":
            yield Served(f"tls/bulk-{name}", mode, "load_bulk", load, tls=True, operation="MiB")
    yield Served("connect/close", "close", "load_connect", _load(connections=16), operation="connection")


def _tls() -> Iterator[Workload]:
    for mode, size, connections in itertools.product(("protocol", "buffered", "streams"), SIZES, CONNECTIONS):
        yield Served(
            f"tls/{mode}/{connections}x{size}",
            mode,
            "load_echo",
            _load(connections=connections, size=SIZES[size]),
            tls=True,
            operation="message",
            default=mode != "buffered" and (connections, size) in DEFAULT_SHAPES,
        )
    yield Served("tls/handshake", "greet", "load_connect", _load(connections=16), tls=True, operation="handshake")


def _http() -> Iterator[Workload]:
    for scheme, app, path in itertools.product(("http", "https"), ("uvicorn", "aiohttp"), ("/", "/10KiB")):
        name = f"{scheme}/{app}" + (path if path != "/" else "")
        yield Http(name, app, path, scheme == "https", operation="request")
