"""What this is, and what it can be asked."""

from __future__ import annotations

from typing import Any

from aioqemu_loop.monitor.command import COMMANDS, Command, command
from aioqemu_loop.monitor.session import Session
from aioqemu_loop.monitor.version import version_info


@command("query-version")
def query_version(session: Session) -> dict[str, Any]:
    """The version of aioqemu_loop, and in "package" also of Python."""
    return version_info()


@command("query-commands")
def query_commands(session: Session) -> list[dict[str, Any]]:
    """The commands, with their arguments and what they are for."""
    found = [_describe(COMMANDS[name]) for name in sorted(COMMANDS)]
    enable = {"name": "enable", "type": "array", "optional": True}
    return [*found, {"name": "qmp_capabilities", "arguments": [enable], "help": "What every client begins with."}]


def _describe(described: Command) -> dict[str, Any]:
    arguments = [
        {"name": name, "type": argument.kind, "optional": argument.optional}
        for name, argument in described.arguments.items()
    ]
    return {"name": described.name, "arguments": arguments, "help": described.summary}
