"""How each kind of workload is measured.

`opened(workload, loop, plan)` is a context with new processes under test. It gives a function that measures once, given
a Watch, and returns the raw answer: operations, seconds, user_us and sys_us (all of the measured time), peak_kib, and
where there are any p50_us, p99_us, load_busy and connection_bytes. `why_not(workload, plan)` raises NotMeasured where a
workload cannot be had here on any loop. `cost_s(workload, plan)` estimates the seconds that one measurement takes,
START_COST_S of it for the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from bench.plan import Watch
from bench.runners import http, inside, served
from bench.workloads import Http, Inside, Served, Workload

Answer = dict[str, float]
Measure = Callable[[Watch], Answer]


def runner(workload: Workload) -> ModuleType:
    return {Inside: inside, Served: served, Http: http}[type(workload)]
