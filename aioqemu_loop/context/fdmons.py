"""Which fd monitor: the backends, what is usable here and why the rest is not, and the choice by name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from aioqemu_loop.fdmon.base import FDMon, FDMonUnavailable
from aioqemu_loop.fdmon.epoll import EpollFDMon
from aioqemu_loop.fdmon.io_uring import IOUringFDMon
from aioqemu_loop.fdmon.liburing import LiburingFDMon
from aioqemu_loop.fdmon.poll import PollFDMon

BACKENDS: dict[str, Callable[[], FDMon]] = {
    "io_uring": IOUringFDMon,
    "epoll": EpollFDMon,
    "poll": PollFDMon,
    "liburing": LiburingFDMon,
}
# The order in which "auto" tries them, as QEMU's aio_context_setup does. What needs a package is only had by name.
AUTO = ("io_uring", "epoll", "poll")
# Those that are io_uring, which an outside main loop must ask for.
RINGS = ("io_uring", "liburing")
# Why a context that use_g_source() was called on has no io_uring.
G_SOURCE_REASON = (
    "given up by use_g_source(), because an outside main loop does not call wait() regularly, which submits changes; "
    "use_g_source(keep_io_uring=True) keeps it"
)


def why_unusable(exc: OSError | ImportError) -> str:
    """In words, why a backend could not be set up."""
    if isinstance(exc, ImportError):
        return str(exc)
    if exc.errno == errno.EPERM:
        why = "denied by a seccomp profile, or by the sysctl kernel.io_uring_disabled"
    elif exc.errno == errno.ENOSYS:
        why = "the kernel has no io_uring, or one older than Linux 5.11 (IORING_FEAT_EXT_ARG)"
    elif exc.errno == errno.ENOMEM:
        why = "over RLIMIT_MEMLOCK, which rings are charged to"
    elif exc.errno in (errno.EMFILE, errno.ENFILE):
        why = "no file descriptor left (RLIMIT_NOFILE)"
    else:
        why = "set-up failed"
    return f"{why} ({errno.errorcode.get(exc.errno or 0, exc.errno)}: {os.strerror(exc.errno or 0)})"


def fdmons() -> dict[str, str | None]:
    """Backend name -> None if it is usable here, else the reason in words. Each is set up and closed again;
    "liburing" is tried out in a process of its own the first time."""
    result: dict[str, str | None] = {}
    for name, make in BACKENDS.items():
        try:
            make().close()
        except (OSError, ImportError) as exc:
            result[name] = why_unusable(exc)
        else:
            result[name] = None
    return result


def make_fdmon(spec: str | FDMon | Callable[[], FDMon] = "auto") -> FDMon:
    """A new monitor. `spec` is a backend's name, "auto" (AIOQEMU_FDMON, or the first that can be set up), an FDMon,
    or a callable that returns one.

    Raises ValueError for a name that is none, FDMonUnavailable for a backend that cannot be had here.
    """
    source = "fdmon"
    if spec == "auto":
        spec = os.environ.get("AIOQEMU_FDMON") or "auto"
        source = "AIOQEMU_FDMON"
    if spec == "auto":
        return _first_usable()
    if isinstance(spec, str):
        if spec not in BACKENDS:
            raise ValueError(f"{source} must be one of auto, {', '.join(BACKENDS)}; not {spec!r}")
        try:
            return BACKENDS[spec]()
        except (OSError, ImportError) as exc:
            raise FDMonUnavailable(spec, why_unusable(exc)) from exc
    monitor = spec if isinstance(spec, FDMon) else spec() if callable(spec) else None
    if not isinstance(monitor, FDMon):
        raise TypeError(f"fdmon must be a name, an FDMon or a callable that returns one; not {spec!r}")
    return monitor


def _first_usable() -> FDMon:
    reasons = []
    for name in AUTO:
        try:
            return BACKENDS[name]()
        except OSError as exc:
            reasons.append(f"{name}: {why_unusable(exc)}")
    raise FDMonUnavailable("auto", "; ".join(reasons))
