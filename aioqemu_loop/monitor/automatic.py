"""AIOQEMU_MONITOR: a monitor with no code, from the first loop on. It never stands in the program's way."""

from __future__ import annotations

import os
import warnings

from aioqemu_loop.monitor.monitor import Monitor, start

# The process that tried last: a child that was forked tries for itself.
_tried_in = 0
_monitor: Monitor | None = None


def start_from_environment() -> None:
    """Once in each process: listen where AIOQEMU_MONITOR says (%p: the pid). Warns where it cannot."""
    global _tried_in, _monitor
    address = os.environ.get("AIOQEMU_MONITOR")
    if not address or _tried_in == os.getpid():
        return
    _tried_in = os.getpid()
    try:
        _monitor = start(address.replace("%p", str(os.getpid())))
    except Exception as exc:
        warnings.warn(f"no monitor at AIOQEMU_MONITOR={address}: {exc}", RuntimeWarning, stacklevel=4)
