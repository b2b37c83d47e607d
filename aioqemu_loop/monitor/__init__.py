"""What a running program does, asked over QMP: loops, tasks, file descriptors, timers, stacks, also of a loop that is stuck.

monitor.start("/run/app.sock"), or AIOQEMU_MONITOR=/run/app.sock with no code. Clients are those of QEMU: `qmp-shell` and
the package qemu.qmp; or `python -m aioqemu_loop monitor /run/app.sock`.
"""

from aioqemu_loop.monitor.monitor import Monitor, start, stop

__all__ = ["Monitor", "start", "stop"]
