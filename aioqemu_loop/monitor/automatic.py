"""AIOQEMU_MONITOR: a monitor with no code, from the first loop on. It never stands in the program's way."""

from __future__ import annotations

import os
import sys
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
        _tell(f"no monitor at AIOQEMU_MONITOR={address}: {exc}")


def _tell(text: str) -> None:
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=5)
    except RuntimeWarning:  # -W error is there for what the program does wrong
        if sys.stderr is not None:
            print(f"RuntimeWarning: {text}", file=sys.stderr)
