"""What a running program does, asked over QMP: loops, tasks, fds, timers, stacks; also where a loop is stuck.

monitor.start("/run/app.sock"), or AIOQEMU_MONITOR=/run/app.sock with no code. Clients are QEMU's, `qmp-shell` and
the package qemu.qmp, or `python -m aioqemu_loop monitor /run/app.sock`.
"""

from aioqemu_loop.monitor.monitor import Monitor, start, stop

__all__ = ["Monitor", "start", "stop"]
