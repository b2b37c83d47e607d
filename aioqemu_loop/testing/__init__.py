"""The pytest plugin: async tests on this loop, on several backends, with a look for what they leave behind."""

from __future__ import annotations

import pytest

from aioqemu_loop.context.fdmons import BACKENDS, make_fdmon
from aioqemu_loop.fdmon.base import FDMonUnavailable
from aioqemu_loop.testing import fixtures
from aioqemu_loop.testing.backends import Backends
from aioqemu_loop.testing.leaks import Leaks


def start(config: pytest.Config, names: str, leaks: bool) -> None:
    """`names`: backends, separated by commas. `leaks`: look for leaks of tests that have no marker, too.

    Raises pytest.UsageError for a backend that is none, or that cannot be had here.
    """
    backends = Backends(config, _checked(names))
    config.pluginmanager.register(backends, "aioqemu_backends")
    config.pluginmanager.register(fixtures, "aioqemu_fixtures")
    config.pluginmanager.register(Leaks(by_default=leaks), "aioqemu_leaks")


def _checked(names: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name != "auto" and name not in BACKENDS:
            raise pytest.UsageError(f"--aioqemu-fdmon: {name!r} is none of auto, {', '.join(BACKENDS)}")
        try:
            make_fdmon(name).close()
        except (FDMonUnavailable, ValueError) as exc:
            raise pytest.UsageError(f"--aioqemu-fdmon: {exc}") from exc
    if not found:
        raise pytest.UsageError(f"--aioqemu-fdmon: no backend is named in {names!r}")
    return found
