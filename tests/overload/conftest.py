"""What the tests of overload share.

AIOQEMU_TEST_OVERLOAD: how many times as much of everything as the suite does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from collections.abc import Callable, Iterator

import pytest

TIMES = int(os.environ.get("AIOQEMU_TEST_OVERLOAD", "1"))


@pytest.fixture
def times() -> int:
    return TIMES


@pytest.fixture
def many_fds() -> Iterator[int]:
    """As many file descriptors as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def run(any_loop: asyncio.AbstractEventLoop) -> Callable[..., object]:
    """run(coroutine) on the loop under test, with the patience that its size needs."""
    return lambda coroutine: any_loop.run_until_complete(asyncio.wait_for(coroutine, 50 * TIMES))


@pytest.fixture
def memory() -> Callable[[], float]:
    """memory() -> MB of this process."""

    def resident() -> float:
        gc.collect()
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize() / 1e6

    return resident
