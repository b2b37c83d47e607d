"""`monitor PATH [COMMAND [ARGUMENT ...]]` of the command line: the live view, or one command's answer as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from aioqemu_loop.monitor.client import Client
from aioqemu_loop.monitor.errors import QMPError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="the monitor's socket, or its host:port")
    parser.add_argument("command", metavar="COMMAND", nargs="?", help="a QMP command; without one: a live view")
    parser.add_argument(
        "arguments", metavar="ARGUMENT", nargs="*", help="key=value, where value may be JSON; or one JSON object"
    )
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks of the live view (default 1)"
    )


def main(args: argparse.Namespace) -> int:
    """Returns the exit status: 0; 1 for an error answer, or where the monitor cannot be reached or goes away; 2 for
    arguments that are none."""
    try:
        arguments = parse_arguments(args.arguments)
        if not 0.05 <= args.interval <= 3600:
            raise ValueError("--interval must be from 0.05 to 3600 seconds")
    except ValueError as exc:
        return _fail(str(exc), 2)
    try:
        with Client(args.path) as client:
            if args.command is None:
                return _show_view(client, args.path, args.interval)
            print(json.dumps(client.execute(args.command, arguments), indent=2))
            return 0
    except QMPError as exc:
        return _fail(exc.desc, 1)
    except ValueError as exc:
        return _fail(str(exc), 2)
    except OSError as exc:
        return _fail(f"{args.path}: {exc}", 1)


def parse_arguments(texts: list[str]) -> dict[str, Any]:
    """["limit=3", "loop=loop0"] or ['{"limit": 3}'] -> a dict. Raises ValueError."""
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        try:
            found = json.loads(texts[0])
        except ValueError as exc:
            raise ValueError(f"not JSON: {texts[0]} ({exc})") from None
        assert isinstance(found, dict)
        return found
    arguments: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"an argument is key=value, not {text!r}")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


def _show_view(client: Client, path: str, interval: float) -> int:
    try:
        from aioqemu_loop.monitor.view import show
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] != "rich":
            raise
        return _fail("the live view needs the package rich: pip install rich", 1)
    return show(client, path, interval)


def _fail(text: str, status: int) -> int:
    print(f"aioqemu_loop monitor: {text}", file=sys.stderr)
    return status
