"""`run`: checks what was asked for, makes it the default, and runs the program."""

from __future__ import annotations

import argparse
import os
import re

from aioqemu_loop.cli import default_loop
from aioqemu_loop.cli.main import RUN_USAGE, complain
from aioqemu_loop.cli.program import run_code, run_module, run_script, run_stdin
from aioqemu_loop.context.fdmons import make_fdmon
from aioqemu_loop.context.poll_params import poll_max_ns_or_default
from aioqemu_loop.fdmon.base import FDMonUnavailable

HOST_AND_PORT = re.compile(r"[^/]+:\d+")


def main(args: argparse.Namespace, program: list[str]) -> int:
    """Returns 2 where the program does not begin; else what the program raises, SystemExit included, comes out."""
    option, name, arguments = _split(program)
    if name is None:
        usage = RUN_USAGE % {"prog": "aioqemu_loop run"}
        return complain(f"no program given\nusage: {usage}")
    try:
        _set_environment(args)
    except (ValueError, FDMonUnavailable) as exc:
        return complain(str(exc))
    default_loop.install()
    if option == "-m":
        run_module(name, arguments)
    elif option == "-c":
        run_code(name, arguments)
    elif name == "-":
        run_stdin(arguments)
    elif os.path.exists(name):
        run_script(name, arguments)
    else:
        return complain(f"can't open file {name!r}: no such file")
    return 0


def _split(program: list[str]) -> tuple[str, str | None, list[str]]:
    """("-m", module, its arguments), ("-c", code, ...) or ("", script, ...); None where that is not given."""
    option, rest = "", program
    if program and program[0].startswith(("-m", "-c")):
        option, attached = program[0][:2], program[0][2:]  # python allows -mmodule, too
        rest = [attached, *program[1:]] if attached else program[1:]
    return option, rest[0] if rest else None, rest[1:]


def _set_environment(args: argparse.Namespace) -> None:
    """The options become the defaults of this process and of its children. Raises what tells why that cannot be."""
    if args.fdmon is not None:
        os.environ["AIOQEMU_FDMON"] = args.fdmon
    if os.environ.get("AIOQEMU_FDMON", "auto") not in ("", "auto"):
        make_fdmon("auto").close()  # better now than in the middle of the program
    if args.poll_max_ns is not None:
        os.environ["AIOQEMU_POLL_MAX_NS"] = str(args.poll_max_ns)
    poll_max_ns_or_default(None)
    if args.monitor is not None:
        # The program may change its directory before it makes a loop.
        address = HOST_AND_PORT.fullmatch(args.monitor)
        os.environ["AIOQEMU_MONITOR"] = args.monitor if address else os.path.abspath(args.monitor)
    if args.debug:
        os.environ["PYTHONASYNCIODEBUG"] = "1"
