"""Poll mode's parameters: what a program may pass, and what is right where it passes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# QEMU's IOTHREAD_POLL_MAX_NS_DEFAULT.
DEFAULT_NS = 32_768


def poll_max_ns_or_default(value: int | None) -> int:
    """Validate poll_max_ns (ns, 0: no busy polling); None takes AIOQEMU_POLL_MAX_NS, or what suits this process.

    Raises TypeError or ValueError that names the value.
    """
    source = "poll_max_ns"
    if value is None:
        text = os.environ.get("AIOQEMU_POLL_MAX_NS")
        if not text:
            return DEFAULT_NS if usable_cpus() >= 2 else 0
        source = "AIOQEMU_POLL_MAX_NS"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{source} must be a number of nanoseconds, not {text!r}") from None
    return _checked(source, value, "an int (nanoseconds) or None")


def checked_factor(name: str, value: int) -> int:
    """Validate poll mode's `grow` or `shrink`. Raises TypeError or ValueError that names the value."""
    return _checked(name, value, "an int")


def _checked(source: str, value: int, kind: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{source} must be {kind}, not {value!r}")
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{source} must be in [0, 2**63), not {value}")
    return value


def usable_cpus(root: Path = Path("/")) -> int:
    """How many CPUs this thread may keep busy: its affinity, and the quota of its control groups, rounded down.

    `root`: where /proc and /sys are looked for. At least 1.
    """
    cpus = len(os.sched_getaffinity(0))
    for quota in _cgroup_quotas(root):
        cpus = min(cpus, int(quota))
    return max(1, cpus)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each control group above this process may have."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # the unified hierarchy, cgroup v2
            mount = root / "sys/fs/cgroup"
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
        else:
            continue
        # In a container the path may be the host's, and the files are at the mount itself.
        group = Path(path.lstrip("/"))
        for folder in {mount, mount / group, *(mount / parent for parent in group.parents)}:
            quota = _quota(folder, unified=not controllers)
            if quota is not None:
                yield quota


def _quota(folder: Path, *, unified: bool) -> float | None:
    try:
        if unified:
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if limit == "max" or int(limit) < 0:
            return None
        return int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
