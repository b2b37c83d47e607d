"""The example does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "iothread_pool.py"


def test_the_example_runs():
    result = subprocess.run(
        [sys.executable, "-X", "dev", str(EXAMPLE), "--threads", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [re.split(":| ", line)[0] for line in lines] == ["one", "pool", "in", "in"]
    assert len({line.partition(": ")[2] for line in lines[2:]}) == 1
