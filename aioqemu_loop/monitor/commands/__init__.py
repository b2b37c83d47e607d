"""The commands, by topic; importing this makes them known."""

from aioqemu_loop.monitor.commands import about, files, loops, stacks, tasks, timers, tracing

__all__ = ["about", "files", "loops", "stacks", "tasks", "timers", "tracing"]
