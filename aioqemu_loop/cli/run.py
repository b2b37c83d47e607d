"""`run`: checks what was asked for, makes it the default, and runs the program."""

from __future__ import annotations

import argparse
import os
import re
import sys

from aioqemu_loop.cli import default_loop
from aioqemu_loop.cli.main import RUN_USAGE, complain
from aioqemu_loop.cli.program import run_module, run_script
from aioqemu_loop.context.fdmons import make_fdmon
from aioqemu_loop.context.poll_params import poll_max_ns_or_default
from aioqemu_loop.fdmon.base import FDMonUnavailable

HOST_AND_PORT = re.compile(r"[^/]+:\d+")


def main(args: argparse.Namespace, program: list[str]) -> int:
    """Returns 2 where the program does not begin; else what the program raises, SystemExit included, comes out."""
    module, arguments = _module_of(program)
    if module is None and not arguments:
        usage = RUN_USAGE % {"prog": "aioqemu_loop run"}
        return complain(f"no program given\nusage: {usage}")
    try:
        _set_environment(args)
    except (ValueError, FDMonUnavailable, RuntimeError) as exc:
        return complain(str(exc))
    default_loop.install()
    if module is not None:
        run_module(module, arguments)
    elif os.path.exists(arguments[0]):
        run_script(arguments[0], arguments[1:])
    else:
        return complain(f"can't open file {arguments[0]!r}: no such file")
    return 0


def _module_of(program: list[str]) -> tuple[str | None, list[str]]:
    """("package.module", its arguments), or (None, [script, its arguments ...])."""
    if not program or not program[0].startswith("-m"):
        return None, program
    attached = program[0][2:]  # python allows -mmodule, too
    if attached:
        return attached, program[1:]
    if len(program) == 1:
        return None, []
    return program[1], program[2:]


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
    if sys.version_info >= (3, 16):
        raise RuntimeError("this Python has no event loop policies, by which `run` works; see aioqemu_loop.run()")
