"""How each kind of workload is measured.

`run(workload, loop, plan, watch)` starts new processes, measures once and returns the raw answer: operations,
seconds, user_us and sys_us (all of the measured time), peak_kib, and where there are any p50_us, p99_us, load_busy and
connection_bytes. `why_not(workload, plan)` raises NotMeasured where a workload cannot be had here on any loop.
`cost_s(workload, plan)` estimates the seconds that one run takes.
"""

from __future__ import annotations

from types import ModuleType

from bench.runners import http, inside, served
from bench.workloads import Http, Inside, Served, Workload

Answer = dict[str, float]


def runner(workload: Workload) -> ModuleType:
    return {Inside: inside, Served: served, Http: http}[type(workload)]
