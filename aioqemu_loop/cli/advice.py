"""What to change, for each thing that `doctor` finds not as good as it could be."""

from __future__ import annotations

import errno

from aioqemu_loop.cli.machine import Machine
from aioqemu_loop.uring.probing import OPERATIONS

# Enough for rings of some dozen loops; what most distributions have set since 2021.
MEMLOCK_GOOD = 8 << 20
NOFILE_GOOD = 4096
USUAL_ENTRIES = 64  # submissions in a ring that got its memory
RAISE_MEMLOCK = (
    f"allow {MEMLOCK_GOOD} or more (`ulimit -l {MEMLOCK_GOOD >> 10}`, systemd's LimitMEMLOCK=8M, Docker's "
    "--ulimit memlock=-1)"
)


def advice(machine: Machine) -> list[str]:
    """Sentences, the most urgent first. Empty: nothing to change."""
    result = []
    if machine.default_error is not None:
        result.append(f"No loop can be made: {machine.default_error}.")
    if machine.poll_max_ns_error is not None:
        result.append(f"No loop can be made: {machine.poll_max_ns_error}.")
    if machine.ring is None:
        result.append(_about_denial(machine))
    else:
        result += _about_ring(machine, machine.ring)
    soft, hard = machine.limits["RLIMIT_NOFILE"]
    if 0 <= soft < NOFILE_GOOD:
        text = (
            f"At most {soft} files and connections can be open at once: raise it (`ulimit -n`, systemd's LimitNOFILE=)"
        )
        result.append(f"{text}; up to {hard} this user may." if hard > soft else f"{text}.")
    if machine.poll_max_ns == 0 and "AIOQEMU_POLL_MAX_NS" not in machine.environment:
        result.append(_about_cpus(machine))
    return result


def _about_denial(machine: Machine) -> str:
    """Why there is no ring, as far as that can be told from outside."""
    number = machine.ring_errno
    if number == errno.ENOMEM:
        soft, hard = machine.limits["RLIMIT_MEMLOCK"]
        return f"All rings of this user may have {soft} bytes of memory together (RLIMIT_MEMLOCK): {RAISE_MEMLOCK}" + (
            f"; the hard limit is {hard}." if hard >= 0 else "."
        )
    if number in (errno.EMFILE, errno.ENFILE):
        return (
            "No file descriptor is left for a ring: raise RLIMIT_NOFILE (`ulimit -n`), or look what keeps files open."
        )
    if number == errno.EPERM and machine.io_uring_disabled == 2:
        return "io_uring is denied to everybody by a sysctl: `sysctl kernel.io_uring_disabled=0` allows it."
    if number == errno.EPERM and machine.io_uring_disabled == 1:
        group = machine.io_uring_group
        whom = "the group that `kernel.io_uring_group` names" if group is None or group < 0 else f"group {group}"
        return (
            f"io_uring is denied to users without CAP_SYS_ADMIN by a sysctl: put this user into {whom}, or "
            "`sysctl kernel.io_uring_disabled=0`."
        )
    if machine.seccomp == "filter":
        return (
            "io_uring is denied by a seccomp filter, as containers have by default: allow io_uring_setup, "
            "io_uring_enter and io_uring_register in its profile (Docker: --security-opt seccomp=profile.json; "
            "systemd: SystemCallFilter=@aio)."
        )
    if number == errno.EPERM:
        return (
            "io_uring is denied, and neither a sysctl nor seccomp says so: look at the security module "
            "(SELinux, AppArmor)."
        )
    if number == errno.ENOSYS:
        return (
            f"This kernel ({machine.versions['kernel']}) has no io_uring that can be used: Linux 5.11 or newer has, "
            "unless it is built without CONFIG_IO_URING or is a sandbox (gVisor)."
        )
    return f"io_uring is denied: io_uring_setup fails with {errno.errorcode.get(number or 0, number)}."


def _about_ring(machine: Machine, ring: dict[str, object]) -> list[str]:
    result = []
    entries = ring["entries"]
    if isinstance(entries, int) and entries < USUAL_ENTRIES:
        result.append(
            f"A ring gets {entries} entries instead of {USUAL_ENTRIES}, as memory for it is short: {RAISE_MEMLOCK}."
        )
    if not ring["defer_taskrun"]:
        result.append("Linux 6.1 or newer has DEFER_TASKRUN: sockets would be received by the ring, not only watched.")
    elif not ring["multishot_receive"]:
        result.append("Multishot receive does not work here, so sockets are watched, not received by the ring.")
    operations = ring["operations"]
    assert isinstance(operations, dict)
    missing = [f"{name} (Linux {OPERATIONS[name][1]})" for name, known in operations.items() if not known]
    if missing:
        result.append(f"A newer kernel has operations that are done otherwise here, or refused: {', '.join(missing)}.")
    if not ring["no_iowait"]:
        result.append("A loop that waits is counted as iowait, which costs nothing; from Linux 6.15 on it is not.")
    soft, _ = machine.limits["RLIMIT_MEMLOCK"]
    if 0 <= soft < MEMLOCK_GOOD:
        result.append(
            f"RLIMIT_MEMLOCK is {soft} bytes: the first loops of a user without CAP_IPC_LOCK get io_uring, later ones "
            f"epoll. To get more of them, {RAISE_MEMLOCK}."
        )
    return result


def _about_cpus(machine: Machine) -> str:
    cpus = machine.cpus
    if cpus["affinity"] < 2:
        why = "may run on one CPU only (taskset, cpuset, --cpuset-cpus)"
    else:
        why = "has less than two CPUs' worth of time by its control group (cpu.max, Docker's --cpus)"
    return f"Poll mode is off, because this process {why}: with two, latencies get shorter."
