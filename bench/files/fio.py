"""fio with its io_uring engine: the limit for reads, because it does nothing but the system calls."""

from __future__ import annotations

import json
import subprocess

from bench import NotMeasured

BATCH_MAX = 16  # submitted by one system call, as tasks of one turn are
EXTRA_TIMEOUT_S = 30.0


def measure(options: tuple[str, ...], depth: int, seconds: float, data: str) -> dict[str, float]:
    """As a process of ours answers: operations, and seconds and microseconds that they took."""
    command = ["fio", "--name=limit", "--ioengine=io_uring", f"--filename={data}", "--readonly", "--thread"]
    command += [
        "--time_based",
        f"--runtime={round(seconds * 1000)}ms",
        f"--iodepth={depth}",
        "--output-format=json",
        *options,
    ]
    command += [f"--iodepth_batch_submit={min(depth, BATCH_MAX)}", f"--iodepth_batch_complete_max={depth}"]
    if "--rw=randread" in options:
        command += ["--norandommap", "--randrepeat=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + EXTRA_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as late:
        raise NotMeasured(f"fio did not end in {late.timeout:.0f} s") from None
    if done.returncode:
        raise NotMeasured(f"fio: {(done.stderr or done.stdout).strip()}")
    return parse(done.stdout)


def parse(text: str) -> dict[str, float]:
    """Of fio's JSON, before which there may be warnings."""
    (job,) = json.loads(text[text.index("{") :])["jobs"]
    reads_us = job["read"]["runtime"] * 1e3  # it tells milliseconds
    return {
        "operations": job["read"]["total_ios"],
        "seconds": reads_us / 1e6,
        "user_us": job["usr_cpu"] / 100 * reads_us,
        "sys_us": job["sys_cpu"] / 100 * reads_us,
    }
