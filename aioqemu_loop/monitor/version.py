"""Which version this is, as QMP's greeting tells it."""

from __future__ import annotations

import platform
import re
from typing import Any

from aioqemu_loop._version import __version__


def version_info() -> dict[str, Any]:
    """QMP's VersionInfo. Clients look for the numbers under "qemu"; they are this package's."""
    numbers = [int(number) for number in re.findall(r"\d+", __version__)[:3]] + [0, 0, 0]
    return {
        "qemu": {"major": numbers[0], "minor": numbers[1], "micro": numbers[2]},
        "package": f"aioqemu_loop {__version__}, {platform.python_implementation()} {platform.python_version()}",
    }
