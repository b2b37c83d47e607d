"""What `doctor` looks at: facts about this machine and this process, without judgement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

from aioqemu_loop._version import __version__
from aioqemu_loop.context.fdmons import AUTO, fdmons
from aioqemu_loop.context.poll_params import poll_max_ns_or_default, usable_cpus
from aioqemu_loop.uring.probing import OPERATIONS, probe_receiving, probe_ring
from aioqemu_loop.uring.ring import supported_operations

# Distribution -> what it is wanted for.
PACKAGES = {
    "PyGObject": "aioqemu_loop.glib",
    "liburing": "loop.submit() and the backend liburing",
    "rich": "the live view of `monitor`",
    "opentelemetry-api": "aioqemu_loop.otel",
}
SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


@dataclass(frozen=True)
class Machine:
    """
    versions, packages: name -> version or None
    default: the backend of a loop that asks for none; or None, and default_error says why
    backends: name -> None if it works, or the reason
    ring: what the kernel's io_uring has; or None, and ring_errno says why
    limits: name -> (soft, hard), -1: unlimited
    poll_max_ns: poll mode's default, 0: off; or None, and poll_max_ns_error says why
    """

    versions: dict[str, str]
    default: str | None
    default_error: str | None
    backends: dict[str, str | None]
    ring: dict[str, object] | None
    ring_errno: int | None
    limits: dict[str, tuple[int, int]]
    seccomp: str | None
    io_uring_disabled: int | None
    io_uring_group: int | None
    cpus: dict[str, int]
    poll_max_ns: int | None
    poll_max_ns_error: str | None
    environment: dict[str, str]
    packages: dict[str, str | None]


def look(root: Path = Path("/")) -> Machine:
    """`root`: where /proc and /sys are looked for."""
    backends = fdmons()
    default, default_error = _default(backends)
    ring, ring_errno = _ring()
    try:
        poll_max_ns, poll_max_ns_error = poll_max_ns_or_default(None), None
    except ValueError as exc:
        poll_max_ns, poll_max_ns_error = None, str(exc)
    return Machine(
        versions={
            "aioqemu_loop": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "kernel": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
        },
        default=default,
        default_error=default_error,
        backends=backends,
        ring=ring,
        ring_errno=ring_errno,
        limits={
            "RLIMIT_MEMLOCK": resource.getrlimit(resource.RLIMIT_MEMLOCK),
            "RLIMIT_NOFILE": resource.getrlimit(resource.RLIMIT_NOFILE),
        },
        seccomp=_seccomp(root),
        io_uring_disabled=_sysctl(root, "io_uring_disabled"),
        io_uring_group=_sysctl(root, "io_uring_group"),
        cpus={
            "online": os.cpu_count() or 1,
            "affinity": len(os.sched_getaffinity(0)),
            "usable": usable_cpus(root),
        },
        poll_max_ns=poll_max_ns,
        poll_max_ns_error=poll_max_ns_error,
        environment={name: text for name, text in sorted(os.environ.items()) if text and name.startswith("AIOQEMU_")},
        packages={name: _version(name) for name in PACKAGES},
    )


def _default(backends: dict[str, str | None]) -> tuple[str | None, str | None]:
    named = os.environ.get("AIOQEMU_FDMON") or "auto"
    if named == "auto":
        found = next((name for name in AUTO if backends[name] is None), None)
        return found, None if found else "no backend works here"
    if named not in backends:
        return None, f"AIOQEMU_FDMON names {named!r}, which is none of auto, {', '.join(backends)}"
    reason = backends[named]
    return (named, None) if reason is None else (None, f"AIOQEMU_FDMON asks for {named}: {reason}")


def _ring() -> tuple[dict[str, object] | None, int | None]:
    try:
        ring: dict[str, object] = dict(probe_ring())
        provided_buffers, multishot_receive = probe_receiving()
        known = supported_operations()
    except OSError as exc:
        return None, exc.errno
    ring["provided_buffers"] = provided_buffers is None
    ring["multishot_receive"] = provided_buffers is None and multishot_receive is None
    ring["operations"] = {name: number in known for name, (number, _) in OPERATIONS.items()}
    return ring, None


def _seccomp(root: Path) -> str | None:
    try:
        for line in (root / "proc/self/status").read_text().splitlines():
            if line.startswith("Seccomp:"):
                return SECCOMP.get(line.split()[1], line.split()[1])
    except OSError:
        pass
    return None


def _sysctl(root: Path, name: str) -> int | None:
    """None where the kernel has no such sysctl (they came with Linux 6.6)."""
    try:
        return int((root / "proc/sys/kernel" / name).read_text())
    except (OSError, ValueError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
