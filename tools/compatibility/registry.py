"""The list of probes: a module per topic, a function per promise."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from typing import Any

# In the order of the document.
MODULES = (
    "scheduling",
    "lifecycle",
    "tasks",
    "debug",
    "readers",
    "tcp",
    "servers",
    "tls",
    "unix",
    "datagrams",
    "pipes",
    "processes",
    "popen",
    "signals",
    "sock",
    "sendfile",
    "names",
    "executors",
    "forks",
)


class CannotTell(Exception):
    """The probe needs something this machine does not give (root, IPv6, ...)."""


@dataclasses.dataclass(frozen=True)
class Probe:
    topic: str
    title: str
    function: Callable[..., Any]
    since: tuple[int, ...]  # the first Python whose documentation promises it
    promised: bool  # False: the stdlib's loop does so and programs rely on it, but no page says so
    stdlib_wrong: str  # where the stdlib's own loop fails: which versions, how

    @property
    def key(self) -> str:
        return f"{self.topic}: {self.title}"

    @property
    def exists(self) -> bool:
        """Whether this Python has what is asked for."""
        return sys.version_info >= self.since


PROBES: list[Probe] = []


def topic(name: str) -> Callable[..., Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """probe = topic("Scheduling"); @probe("what is asked"[, since=(3, 12)][, promised=False])

    A probe is a coroutine function without arguments, run on a fresh loop, or a function that gets a maker of loops.
    """

    def probe(
        title: str, since: tuple[int, ...] = (3, 10), promised: bool = True, stdlib_wrong: str = ""
    ) -> Callable[..., Any]:
        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            PROBES.append(Probe(name, title, function, since, promised, stdlib_wrong))
            return function

        return register

    return probe


def load() -> list[Probe]:
    for name in MODULES:
        importlib.import_module(f"tools.compatibility.probes.{name}")
    return PROBES
