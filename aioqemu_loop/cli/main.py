"""The commands and their options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

RUN_USAGE = (
    "%(prog)s [--fdmon NAME] [--poll-max-ns N] [--monitor PATH] [--debug]\n"
    "       (script.py | -m module | -c code | -) [args ...]"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (default: that of sys.argv) and return its exit status.

    `run` ends as the program does: SystemExit and whatever else the program raises come out of here.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else ""
    # What follows the program's name is the program's, whatever it looks like.
    program: list[str] = []
    if command == "run":
        given, program = split_run(given)
    parser = _parser(command)
    args = parser.parse_args(given)
    if command == "run":
        from aioqemu_loop.cli import run

        return run.main(args, program)
    if command == "doctor":
        from aioqemu_loop.cli import doctor

        return doctor.main(args)
    from aioqemu_loop.monitor import cli as monitor_cli

    return monitor_cli.main(args)


def _parser(command: str) -> argparse.ArgumentParser:
    prog = Path(sys.argv[0]).name
    if prog == "__main__.py":
        prog = f"{Path(sys.executable).name} -m aioqemu_loop"
    parser = argparse.ArgumentParser(prog=prog, description="asyncio with QEMU's AioContext inside", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run an asyncio program on this loop",
        description="Run an asyncio program as python would, with this loop where asyncio makes one by default.",
        usage=RUN_USAGE,
        allow_abbrev=False,
    )
    run.add_argument("--fdmon", metavar="NAME", help="auto, io_uring, epoll, poll or liburing (AIOQEMU_FDMON)")
    run.add_argument("--poll-max-ns", metavar="N", type=int, help="longest busy polling, 0: none (AIOQEMU_POLL_MAX_NS)")
    run.add_argument("--monitor", metavar="PATH", help="where the program answers QMP meanwhile (AIOQEMU_MONITOR)")
    run.add_argument("--debug", action="store_true", help="asyncio's debug mode (PYTHONASYNCIODEBUG)")
    doctor = commands.add_parser(
        "doctor",
        help="what works on this machine, what does not, and what to change",
        description="Exit status 0: the default backend works. 1: it does not.",
    )
    doctor.add_argument("--json", action="store_true", help="the same for programs")
    monitor = commands.add_parser("monitor", help="look into a program that runs on this loop")
    if command == "monitor":
        from aioqemu_loop.monitor import cli as monitor_cli

        monitor_cli.add_arguments(monitor)
    return parser


def split_run(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """`run`'s arguments -> its own options, and the program with its arguments."""
    takes_value = ("--fdmon", "--poll-max-ns", "--monitor")
    at = 1
    while at < len(given) and given[at].startswith("-") and not given[at].startswith(("-m", "-c")) and given[at] != "-":
        at += 2 if given[at] in takes_value else 1
    return list(given[:at]), list(given[at:])


def complain(text: str) -> int:
    """Say on stderr why a command does not begin; returns the exit status for that."""
    print(f"aioqemu_loop: {text}", file=sys.stderr)
    return 2
