"""`run --monitor` and `monitor` together: the program answers the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from .conftest import ROOT

pytest.importorskip("aioqemu_loop.monitor.cli")

PROGRAM = """
import asyncio, sys

async def main():
    print(asyncio.get_running_loop().fdmon, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""


def test_a_running_program_answers(command, script, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "aioqemu_loop", "run", "--fdmon", "epoll", "--monitor", "qmp.sock", script(PROGRAM)]
    with subprocess.Popen(run, env=environment, cwd=tmp_path, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "epoll\n"
        result = command("monitor", "qmp.sock", "query-version", options=())
        assert result.returncode == 0, result.stderr
        assert "aioqemu_loop" in json.loads(result.stdout)["package"]
        refused = command("monitor", "qmp.sock", "no-such-command", options=())
        assert refused.returncode == 1 and "no-such-command" in refused.stderr
        process.stdin.close()
        assert process.wait(30) == 0


def test_nobody_there(command):
    result = command("monitor", "nowhere.sock", "query-version", options=())
    assert (result.returncode, result.stdout) == (1, "")
    assert "nowhere.sock" in result.stderr
