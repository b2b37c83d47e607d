"""Run under faults.c: scenarios with faults, one case after the other.

    python -m tests.faults.sweep FOLDER BACKENDS SCENARIOS CALLS ERRORS POINTS [LEVEL [anybody]]

FOLDER is for certificates; BACKENDS, SCENARIOS, CALLS and ERRORS are lists with commas, or "all"; POINTS is the number
of calls in turn that fail (0: all of them; -N: a fifth of them at random, N times). LEVEL, anybody: see Plan; for the
latter name the CALLS. Prints what went wrong, and totals as JSON after each scenario. Exit status 1: something did.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import errno
import faulthandler
import gc
import itertools
import json
import os
import signal
import ssl
import sys
import time
import warnings
from asyncio import constants
from pathlib import Path
from typing import Any

import aioqemu_loop
from tests.faults.faults import SHORT, WAITS, Faults, Plan
from tests.faults.scenarios import SCENARIOS, Report

PATIENCE = 6  # seconds, then it hangs
WAITS_MAX = 4000  # looks at the kernel in a case: the longest scenario needs some 300
CPU_MAX = 2.0  # seconds
RUNS_MAX = 30  # how often the loop is run again after an error came out of it

ERRORS = [
    getattr(errno, name)
    for name in [
        "EINTR",
        "EAGAIN",
        "ENOMEM",
        "ENOBUFS",
        "EMFILE",
        "ENFILE",
        "EPERM",
        "EBADF",
        "ECANCELED",
        "ECONNRESET",
        "EPIPE",
    ]
]
SHORTENED = {
    "read",
    "write",
    "writev",
    "recv",
    "recvmsg",
    "recvmmsg",
    "send",
    "sendmsg",
    "preadv2",
    "pwritev2",
    "sendfile",
    "sqe_send",
    "sqe_read",
    "sqe_write",
    "epoll_wait",
}
# What the kernel does not do to these calls. write() is only used for eventfds, where nothing else wakes the loop.
UNREAL = {
    "write": set(ERRORS) - {errno.EINTR},
    "waitpid": set(ERRORS) - {errno.EINTR},
    "sqe_poll": {errno.EPERM, errno.EBADF, errno.ECONNRESET, errno.EPIPE},
}
# Nobody hears of these, where the call is one that they may come from.
READING_OR_WRITING = {"read", "writev", "recv", "recvmsg", "recvmmsg", "send", "sendto", "sendmsg", "preadv2"}
OPERATIONS = {"sqe_poll", "sqe_recv", "sqe_send"}
RETRIED = {
    errno.EINTR: {*WAITS, *READING_OR_WRITING, *OPERATIONS, "write", "accept4", "pwritev2", "sqe_read", "sqe_write"},
    errno.EAGAIN: {*READING_OR_WRITING, *OPERATIONS, "accept4"},
    errno.ECANCELED: OPERATIONS,
}
# Consequences at other ends of what was made to fail.
CONSEQUENCES = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError)


class Hang(BaseException):
    pass


def hangs(signum: int, frame: Any) -> None:
    faulthandler.dump_traceback()
    raise Hang


def open_fds() -> set[str]:
    result = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            result.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return result


class Runner:
    def __init__(self, folder: Path | None) -> None:
        self.tls = None
        if folder is not None:
            from tools.certificates import localhost_tls

            self.tls = localhost_tls(folder)
        self.faults = Faults()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        signal.signal(signal.SIGALRM, hangs)
        constants.ACCEPT_RETRY_DELAY = 0.01
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        gc.freeze()  # so that looking for what is left is quick

    def case(self, backend: str, scenario: str, plan: Plan) -> int:
        """Returns how many calls were made to fail."""
        report = Report(self.tls)
        before = open_fds()
        cpu = time.process_time()
        faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
        signal.alarm(PATIENCE)
        name = f"{backend} {scenario} {plan}"
        try:
            outcome = self.run(backend, scenario, plan, report)
        except Hang:
            report.wrong.append("hangs")
            outcome = "hang"
        except Exception as exc:
            report.wrong.append(f"{type(exc).__name__}: {exc}")
            outcome = "failure"
        finally:
            calls = self.faults.calls()
            done = self.faults.disarm()
            signal.alarm(0)
        cpu = time.process_time() - cpu
        gc.collect()
        left = open_fds() - before
        if left and outcome != "hang":
            report.wrong.append(f"left open: {sorted(left)}")
        waits = sum(calls.get(call, 0) for call in WAITS)
        if waits > WAITS_MAX or cpu > CPU_MAX:
            report.wrong.append(f"busy: {waits} looks, {cpu:.1f} s of CPU")
        for exc in report.errors:
            if not (
                isinstance(exc, CONSEQUENCES)
                or getattr(exc, "errno", None) in (plan.error, errno.ENOTCONN)
                or (isinstance(exc, OSError) and plan.anybody)
            ):
                report.wrong.append(f"another error: {exc!r}")
        if report.errors and plan.call in RETRIED.get(plan.error, ()):
            report.wrong.append("told of what is to be tried again")
        if report.wrong:
            self.failures.append(f"{name}: {'; '.join(dict.fromkeys(report.wrong))}")
            print(self.failures[-1], f"(told: {report.errors!r})", flush=True)
        if done:
            self.outcomes["failed" if report.wrong else outcome] += 1
        return done

    def run(self, backend: str, scenario: str, plan: Plan, report: Report) -> str:
        self.faults.arm(plan)
        try:
            loop = aioqemu_loop.new_event_loop(fdmon=backend)
        except (OSError, aioqemu_loop.FDMonUnavailable) as exc:
            if backend == "auto":
                raise
            self.named(exc, plan, report)
            return "refused"
        loop.set_exception_handler(report.handler)
        task = loop.create_task(SCENARIOS[scenario](report))
        came_out = 0
        try:
            while not task.done():
                try:
                    loop.run_until_complete(task)
                except OSError as exc:
                    report.told(exc)
                    came_out += not task.done()
                    if came_out > RUNS_MAX:
                        self.faults.disarm()
            for _ in range(4):  # what was closed last
                try:
                    loop.run_until_complete(asyncio.sleep(0))
                    loop.run_until_complete(loop.shutdown_default_executor())
                except OSError as exc:
                    report.told(exc)
                except RuntimeError:  # stopped by what the run before had queued
                    continue
        finally:
            try:
                loop.close()
            except OSError as exc:
                report.told(exc)
        if not loop.is_closed():
            report.wrong.append("the loop is not closed")
        return "came out of run" if came_out else "told" if report.errors else "survived"

    def named(self, exc: BaseException, plan: Plan, report: Report) -> None:
        if not plan.error or (errno.errorcode[plan.error] not in str(exc) and getattr(exc, "errno", 0) != plan.error):
            report.wrong.append(f"refused with another reason: {exc!r}")

    def in_turn(self, backend: str, scenario: str, plan: Plan, points: int) -> None:
        """The first, second, ... call fails, until none does any more or `points` have."""
        while not points or plan.first <= points:
            if not self.case(backend, scenario, plan):
                break
            plan = dataclasses.replace(plan, first=plan.first + 1)


def is_real(backend: str, call: str, error: int, at_random: bool) -> bool:
    """Whether the kernel may do that. To edge-triggered sockets it tells of the change after which EAGAIN, or a short
    read, is over; tell_again() in faults.c does so for epoll, and nobody can for a poll of a ring."""
    if error in UNREAL.get(call, ()) or (error == SHORT and call not in SHORTENED):
        return False
    if backend != "io_uring":
        return True
    if call in ("recv", "recvmsg", "recvmmsg"):
        return error not in (errno.EAGAIN, SHORT)
    # One is followed by a new look at the socket, two are not.
    return not (at_random and call in ("send", "sendmsg") and error == errno.EAGAIN)


def number_of(error: str) -> int:
    return SHORT if error == "SHORT" else int(getattr(errno, error))


def main(
    folder: str, backends: str, scenarios: str, calls: str, errors: str, points: str, level: str = "0", who: str = ""
) -> int:
    wanted = list(SCENARIOS) if scenarios == "all" else scenarios.split(",")
    numbers = [*ERRORS, SHORT] if errors == "all" else [number_of(name) for name in errors.split(",")]
    seeds = max(0, -int(points))
    runner = Runner(Path(folder) if "tls" in wanted else None)
    for backend, scenario in itertools.product(backends.split(","), wanted):
        runner.case(backend, scenario, Plan(level=int(level)))
        made = runner.faults.calls()
        for call, error in itertools.product(made if calls == "all" else calls.split(","), numbers):
            if (call not in made and not who) or not is_real(backend, call, error, seeds > 0):
                continue
            plan = Plan(call, error, level=int(level), anybody=who == "anybody")
            for seed in range(1, seeds + 1):
                runner.case(backend, scenario, dataclasses.replace(plan, percent=20, seed=seed))
            if not seeds:
                runner.in_turn(backend, scenario, plan, int(points))
        totals = {"until": scenario, "outcomes": runner.outcomes, "failures": len(runner.failures)}
        print(json.dumps(totals), flush=True)
    return bool(runner.failures)


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # not held up by threads of what hangs
