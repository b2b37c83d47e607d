"""A machine whose CPUs others want: every yield takes 20 ms there, as sched_yield() does in the child here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

YIELD = "#include <unistd.h>\nint sched_yield(void) { return usleep(20000); }\n"
PROGRAM = """
import asyncio, sys, time
import aioqemu_loop

async def main():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)  # its thread stays
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        await asyncio.sleep(0)
        turns.append(None)

turns = []
aioqemu_loop.run(main(), fdmon=sys.argv[1], poll_max_ns=0)
print(len(turns))
"""


def test_a_busy_loop_with_threads_does_not_give_the_cpu_away_at_every_look(fdmon: str, tmp_path: Path) -> None:
    source, library = tmp_path / "yield.c", tmp_path / "yield.so"
    source.write_text(YIELD)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, fdmon],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(child.stdout) > 5000  # 25 looks of 20 ms with a few turns each, if all of them yield
