"""Compiles the C programs of the benchmark, when they are older than their sources."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench import NotMeasured

SOURCES = Path(__file__).resolve().parent / "native"
# A folder per C library: a checkout may be shared with a container or a chroot, whose library is another.
LIBC = (os.confstr("CS_GNU_LIBC_VERSION") or "libc").replace(" ", "-")
PROGRAMS = SOURCES.parent.parent / "build" / "bench" / LIBC
FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra")
TLS = (("-DWITH_TLS",), ("-lssl", "-lcrypto"))  # before and after the source


class CannotCompile(NotMeasured):
    """No compiler, or not the headers that the program needs."""


def build(name: str, tls: bool = False) -> str:
    """The path of the program made from native/NAME.c; with `tls`, of the one that speaks TLS."""
    source = SOURCES / f"{name}.c"
    program = PROGRAMS / (f"{name}-tls" if tls else name)
    newest = max(path.stat().st_mtime for path in (source, *SOURCES.glob("*.h")))
    if program.exists() and program.stat().st_mtime >= newest:
        return str(program)
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    before, after = TLS if tls else ((), ())
    # Under another name first: a second benchmark may be running, and must not start half a program.
    fresh = f"{program}.{os.getpid()}"
    command = [os.environ.get("CC", "cc"), *FLAGS, *before, "-o", fresh, str(source), *after]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotCompile(f"no C compiler: {error}") from error
    if done.returncode:
        if "openssl/" in done.stderr and "No such file" in done.stderr:
            raise CannotCompile("the headers of OpenSSL are missing (Debian: libssl-dev)")
        raise CannotCompile(f"{source.name} does not compile: {(done.stderr.strip() or 'no reason').splitlines()[0]}")
    os.replace(fresh, program)
    return str(program)
