"""One process on one CPU that does the operations and times itself: bench.inside."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from bench.children import Child
from bench.plan import Plan, Watch
from bench.workloads import Inside

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 20.0  # beyond the seconds that were asked for
SECONDS_PART = 0.25  # of the plan's: there is no second process whose luck would have to be evened out
START_COST_S = 0.3


def seconds(workload: Inside, plan: Plan) -> float:
    return plan.seconds if workload.service else plan.seconds * SECONDS_PART


@contextlib.contextmanager
def opened(workload: Inside, loop: str, plan: Plan) -> Iterator[Callable[[Watch], dict[str, float]]]:
    command = [sys.executable, "-m", "bench.inside", loop, workload.case]
    command += [str(seconds(workload, plan)), str(plan.warmup)]
    if workload.service:
        command.append(plan.services.address(workload.service))
    with Child(command, plan.server_cpu) as child:
        child.read_line(plan.warmup + START_TIMEOUT_S)

        def measure(watch: Watch) -> dict[str, float]:
            with watch(child.pid):
                child.send_line("go")
                answer: dict[str, float] = json.loads(child.read_line(seconds(workload, plan) + END_TIMEOUT_S))
            return answer

        yield measure


def why_not(workload: Inside, plan: Plan) -> None:
    if workload.service:
        plan.services.address(workload.service)


def cost_s(workload: Inside, plan: Plan) -> float:
    return START_COST_S + plan.warmup + seconds(workload, plan)
