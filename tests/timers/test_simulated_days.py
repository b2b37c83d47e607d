"""24 hours' worth of timers and more on each backend, on a clock that moves only when somebody sleeps (simulation.py):
none is early, also after 104 days of uptime and when sleeps end too early or too late; the order of times is kept, and
that of setting where times are equal; cancelling and moving some keeps the rest; each fires once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aioqemu_loop import fdmons
from tests.conftest import preloaded

EXAMPLES = 40  # at each of five uptimes
SIMULATION = Path(__file__).with_name("simulation.py")


def simulate(library, backend, what, examples=EXAMPLES, poll_max_ns=0):
    """Returns (hours that went by, timers that fired)."""
    environment = {
        **os.environ,
        "LD_PRELOAD": preloaded(library),
        "AIOQEMU_POLL_MAX_NS": str(poll_max_ns),
        "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path),
    }
    command = [sys.executable, str(SIMULATION), backend, what, str(examples)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr[-5000:]
    hours, fired = result.stdout.split()
    return float(hours), int(fired)


@pytest.mark.parametrize("backend", ["io_uring", "epoll", "poll", "reference"])
def test_a_loops_timers(simulated_time, backend):
    if backend != "reference" and fdmons()[backend] is not None:
        pytest.skip(fdmons()[backend])
    hours, fired = simulate(simulated_time, backend, "loop")
    assert hours >= 24 or backend == "reference"  # which gets fewer examples
    assert fired >= 1000


def test_a_contexts_timers(simulated_time, fdmon):
    hours, fired = simulate(simulated_time, fdmon, "context")
    assert hours >= 24
    assert fired >= 1000


def test_poll_mode_ends_where_the_clock_stands_still(simulated_time, fdmon):
    """As under libfaketime: what is looked for does not come, and no time goes by meanwhile."""
    _, fired = simulate(simulated_time, fdmon, "loop", examples=1, poll_max_ns=100_000)
    assert fired > 0
