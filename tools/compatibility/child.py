"""python -m tools.compatibility.child LOOP: reads keys of probes, runs each in a fork, answers with lines of JSON.

A fork each, because some loops abort the process, and because nothing may be left over for the next probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from tools.compatibility import loops, registry

PROBE_SECONDS = 8.0  # until the loop under test gives a probe up
HANG_SECONDS = 14.0  # until the process is killed


def finish(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1))
    loop.close()


def run_coroutine(function: Callable[[], Any], make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Run it on a fresh loop. Errors that only the exception handler was told are failures, too."""
    reported: list[dict[str, Any]] = []
    loop = make_loop()
    loop.set_exception_handler(lambda _, details: reported.append(details))

    async def limited() -> None:
        await asyncio.wait_for(function(), PROBE_SECONDS)

    loop.run_until_complete(limited())
    finish(loop)
    for details in reported:
        raise details.get("exception") or AssertionError(f"exception handler: {details.get('message')}")


def describe(error: BaseException) -> str:
    """One short line: the message of an assertion, or its source; the type and text of anything else."""
    if isinstance(error, registry.CannotTell):
        return f"cannot tell: {error}"
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)) and not str(error):
        return "no: nothing comes"
    if isinstance(error, TimeoutError) and str(error) == "timed out":
        return "no: the peer gets nothing"
    text = " ".join(str(error).split())
    if isinstance(error, AssertionError):
        frame = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        return f"no: {text or (frame.line if frame else 'AssertionError')}"
    return f"no: {type(error).__name__}{': ' if text else ''}{text}"


def answer(probe: registry.Probe, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> tuple[str, str]:
    """(cell, traceback)"""
    try:
        if inspect.iscoroutinefunction(probe.function):
            run_coroutine(probe.function, make_loop)
        else:
            probe.function(make_loop)
    except BaseException as error:
        return describe(error), traceback.format_exc()
    return "yes", ""


def in_fork(probe: registry.Probe, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> tuple[str, str]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(readable)
        with contextlib.suppress(BaseException):
            os.write(writable, json.dumps(answer(probe, make_loop)).encode())
        os._exit(0)
    os.close(writable)
    try:
        return collect(pid, readable)
    finally:
        os.close(readable)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what the probe has started


def collect(pid: int, readable: int) -> tuple[str, str]:
    """The fork's answer, or how it ended without one."""
    deadline = time.monotonic() + HANG_SECONDS
    text = b""
    while select.select([readable], [], [], max(deadline - time.monotonic(), 0))[0]:
        chunk = os.read(readable, 65536)
        if not chunk:
            break
        text += chunk
        with contextlib.suppress(ValueError):
            cell, details = json.loads(text)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return cell, details
    os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if time.monotonic() >= deadline:
        return "hang", ""
    return f"crash: {signal.Signals(-status).name if status < 0 else f'exit {status}'}", ""


def main(name: str) -> None:
    probes = {probe.key: probe for probe in registry.load()}
    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    try:
        make_loop = loops.Maker(name)
    except Exception as error:
        print(json.dumps(["unavailable", str(error)]), file=answers, flush=True)
        return
    print(json.dumps(["ready", ""]), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(in_fork(probes[json.loads(line)], make_loop)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
