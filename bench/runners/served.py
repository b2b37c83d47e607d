"""A server process on one CPU, and a load program in C on another: bench.servers and native/."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator

from bench import loops, native
from bench.children import Child, peak_kib
from bench.plan import Plan, Watch
from bench.workloads import Served

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 30.0  # beyond the seconds that were asked for; thousands of idle connections take some
START_COST_S = 0.4
OTHER_FILES = 100  # that a server or a load program has open beside its connections


@contextlib.contextmanager
def files_for(connections: int) -> Iterator[None]:
    """Processes started inside may open so many files, as far as the hard limit lets them."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, min(most, wanted)), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@contextlib.contextmanager
def server(workload: Served, loop: str, plan: Plan) -> Iterator[tuple[Child, str]]:
    """A running server, and its address."""
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        address = {"tcp": "127.0.0.1:0", "udp": "udp:127.0.0.1:0", "unix": f"{folder}/s"}[workload.transport]
        if loop in loops.LIMITS:
            command = [native.build(f"server_{loop.removeprefix('c:')}"), address]
        else:
            command = [sys.executable, "-m", "bench.servers", loop, workload.mode, address]
        if workload.tls:
            command += ["--tls", plan.certificate()]
        with Child(command, plan.server_cpu) as child:
            yield child, child.read_line(START_TIMEOUT_S).removeprefix("ready ")


@contextlib.contextmanager
def opened(workload: Served, loop: str, plan: Plan) -> Iterator[Callable[[Watch], dict[str, float]]]:
    load = dict(workload.load)
    with files_for(load["connections"] + load.get("idle", 0)), server(workload, loop, plan) as (child, address):
        options = {**load, "seconds": plan.seconds, "warmup": plan.warmup, "pid": child.pid}
        command = [native.build(workload.program, workload.tls), address]
        command += [f"{key}={value}" for key, value in options.items()]

        def measure(watch: Watch) -> dict[str, float]:
            with watch(child.pid), Child(command, plan.load_cpu) as loading:
                answer: dict[str, float] = json.loads(loading.read_line(plan.seconds + plan.warmup + END_TIMEOUT_S))
            return answer | {"peak_kib": peak_kib(child.pid)}

        yield measure


def why_not(workload: Served, plan: Plan) -> None:
    native.build(workload.program, workload.tls)
    if workload.tls:
        plan.certificate()


def cost_s(workload: Served, plan: Plan) -> float:
    return START_COST_S + plan.warmup + plan.seconds + dict(workload.load).get("idle", 0) / 5000
