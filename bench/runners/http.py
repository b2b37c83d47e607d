"""A web server on one CPU, and wrk on another: bench.web."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from bench import NotMeasured
from bench.children import Child, cpu_us, on_cpu, peak_kib
from bench.plan import Plan, Watch
from bench.workloads import Http

START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 20.0
START_COST_S = 1.0
CONNECTIONS = 64
WARMUP_S = 1
TLS_PART = 2  # times the plan's seconds
NEEDED = {"uvicorn": ("uvicorn", "httptools"), "aiohttp": ("aiohttp",)}
UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


@contextlib.contextmanager
def opened(workload: Http, loop: str, plan: Plan) -> Iterator[Callable[[Watch], dict[str, float]]]:
    command = [sys.executable, "-m", "bench.web", loop, workload.app]
    if workload.tls:
        command += ["--tls", plan.certificate()]
    with Child(command, plan.server_cpu) as child:
        address = child.read_line(START_TIMEOUT_S).removeprefix("ready ")
        url = f"{'https' if workload.tls else 'http'}://{address}{workload.path}"
        wrk(url, WARMUP_S, plan, child)

        def measure(watch: Watch) -> dict[str, float]:
            before, own = cpu_us(child.pid), _children_s()
            with watch(child.pid):
                answer = wrk(url, seconds(workload, plan), plan, child)
            after, own = cpu_us(child.pid), _children_s() - own
            answer |= {"user_us": after[0] - before[0], "sys_us": after[1] - before[1]}
            return answer | {"peak_kib": peak_kib(child.pid), "load_busy": own / answer["seconds"]}

        yield measure


def _children_s() -> float:
    """CPU time of children that have ended; between two calls that is wrk, because the server still runs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(workload: Http, plan: Plan) -> int:
    """wrk knows whole seconds only, and makes its connections anew in them: with TLS that must not weigh."""
    return max(1, round(plan.seconds * (TLS_PART if workload.tls else 1)))


def wrk(url: str, duration: int, plan: Plan, server: Child) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration}s", "--latency", url]
    try:
        with on_cpu(plan.load_cpu):
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=duration + END_TIMEOUT_S
            )
    except subprocess.TimeoutExpired:
        raise NotMeasured("wrk did not end") from None
    server.check_runs()
    if done.returncode:
        raise NotMeasured(f"wrk: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
    return parse(done.stdout)


def parse(text: str) -> dict[str, float]:
    """What wrk prints, as numbers; NotMeasured where requests failed."""
    if wrong := re.search(r"Non-2xx or 3xx responses: \d+|Socket errors: .*", text):
        raise NotMeasured(f"wrk saw {wrong[0]}")
    total = re.search(r"(\d+) requests in ([\d.]+)(s|m)", text)
    if total is None or total[1] == "0":
        raise NotMeasured("wrk got no answer")
    answer = {"operations": float(total[1]), "seconds": float(total[2]) * (60 if total[3] == "m" else 1)}
    for part in ("50", "99"):
        if found := re.search(rf"^ +{part}% +([\d.]+)(us|ms|s)", text, re.MULTILINE):
            answer[f"p{part}_us"] = float(found[1]) * UNITS_US[found[2]]
    return answer


def why_not(workload: Http, plan: Plan) -> None:
    if shutil.which("wrk") is None:
        raise NotMeasured("wrk is not on PATH (Debian: wrk)")
    missing = [name for name in NEEDED[workload.app] if importlib.util.find_spec(name) is None]
    if missing:
        raise NotMeasured(f"not installed: {', '.join(missing)}")
    if workload.tls:
        plan.certificate()


def cost_s(workload: Http, plan: Plan) -> float:
    return START_COST_S + WARMUP_S + seconds(workload, plan)
