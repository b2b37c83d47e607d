"""The benchmark measures what it says, and puts into words what it cannot measure. Its numbers are not looked at."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import NotMeasured, children, judge, native, report, results, workloads
from bench.plan import LOAD_CPU, Plan, nobody
from bench.runners import http
from bench.samples import Sample
from bench.services import Services

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 50
CHEAP = ("scheduling/call_soon", "tcp/protocol/4x64B", "client/echo_streams")  # one of each kind that needs no wrk
LOOPS = ("aioqemu", "asyncio", "nonsense")
WRK_SAYS = """Running 1s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.75ms    1.02ms  29.97ms   97.01%
    Req/Sec    37.63k     2.59k   41.40k    70.00%
  Latency Distribution
     50%  850.00us
     75%    1.90ms
     90%    2.18ms
     99%    3.41ms
  37431 requests in 1.10s, 5.57MB read
Requests/sec:  37427.78
Transfer/sec:      5.57MB
"""

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler")


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[Plan]:
    with Services(LOAD_CPU) as services:
        yield Plan(0.1, 0.05, True, tmp_path, services)


def nobody_watches(words: str, cost_s: float) -> None:
    pass


@needs_compiler
def test_one_command_measures_every_kind_and_leaves_tables_and_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--workloads", ",".join(CHEAP), "--loops", ",".join(LOOPS)]
    command += ["--rounds", "2", "--seconds", "0.3", "--warmup", "0.05", "--output", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr

    result = results.load(path)
    assert {"cpu", "kernel", "python", "packages"} <= set(result.machine)
    assert set(result.missing) == {"nonsense"}
    assert "no loop is called 'nonsense'" in result.missing["nonsense"]
    for workload in CHEAP:
        for loop in ("aioqemu", "asyncio"):
            # Of two rounds: on a crowded machine a process may get no time at all in one of them.
            sample = next((one for one in result.of(workload, loop) if one.failure is None), None)
            assert sample, done.stdout
            assert sample.per_s and sample.peak_kib
            assert sample.user_us is not None and sample.sys_us is not None
            assert workload == "scheduling/call_soon" or (sample.p50_us and sample.p99_us)

    text = path.with_suffix(".md").read_text()
    assert text in done.stdout
    for column in (
        "message/s",
        "spread %",
        "to asyncio",
        "p50 us",
        "p99 us",
        "user us",
        "sys us",
        "load busy %",
        "peak MiB",
    ):
        assert column in text
    assert "to uvloop" not in text  # it was not measured: the column has no value and is left out
    assert "nonsense" in text


@needs_compiler
@pytest.mark.parametrize("name", CHEAP)
def test_processes_may_live_through_all_rounds(plan: Plan, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (workload,) = workloads.chosen([name], full=False)
    started: list[str] = []
    start = children.Child.__init__

    def noted(self: children.Child, command: list[str], *others: Any, **options: Any) -> None:
        started.extend(word for word in command if word in ("bench.inside", "bench.servers"))
        start(self, command, *others, **options)

    monkeypatch.setattr(children.Child, "__init__", noted)
    judging = judge.Judge(plan, [workload], ["asyncio", "aioqemu"], every_setting=False, keep=True)
    judging.measure(3, nobody_watches, lambda: None)
    assert len(started) == 2
    assert [(sample.round, sample.loop) for sample in judging.samples] == [
        *[(0, "asyncio"), (0, "aioqemu")],
        *[(1, "aioqemu"), (1, "asyncio")],
        *[(2, "asyncio"), (2, "aioqemu")],
    ]
    assert [sample.failure for sample in judging.samples if sample.failure] == []


def test_who_failed_takes_no_further_part(plan: Plan) -> None:
    broken = workloads.Inside("broken/case", "no_such_case")
    judging = judge.Judge(plan, [broken], ["asyncio"], every_setting=False, keep=True)
    judging.measure(3, nobody_watches, lambda: None)
    (sample,) = judging.samples
    assert "no_such_case" in str(sample.failure)


@needs_compiler
def test_c_servers_echo(plan: Plan) -> None:
    (workload,) = workloads.chosen(["tcp/protocol/4x64B"], full=False)
    judging = judge.Judge(plan, [workload], ["c:epoll", "c:io_uring"], every_setting=False)
    judging.measure_round(0, nobody_watches)
    epoll, uring = judging.samples
    assert epoll.failure is None
    assert uring.failure is None or "io_uring_setup" in uring.failure


@needs_compiler
def test_a_pace_is_kept(plan: Plan) -> None:
    (workload,) = workloads.chosen(["pace/1000"], full=False)
    judging = judge.Judge(plan, [workload], ["c:epoll"], every_setting=False)
    judging.measure_round(0, nobody_watches)
    (sample,) = judging.samples
    assert sample.failure is None
    assert sample.per_s and 0 < sample.per_s < 1500  # a message that is late is left out; without a pace some 100,000


def test_failures_become_words(plan: Plan) -> None:
    broken = workloads.Inside("broken/case", "no_such_case")
    judging = judge.Judge(plan, [broken], ["asyncio"], every_setting=False)
    for turn in range(3):
        judging.measure_round(turn, nobody_watches)
    assert len(judging.samples) == judge.TRIES  # and then it is not tried again
    assert "no_such_case" in str(judging.samples[0].failure)

    result = _result(judging.samples, "broken/case")
    assert "| failed 2 of 2: " in report.one(result, result.workloads[0])


def test_what_is_missing_becomes_words(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    (workload,) = workloads.chosen(["http/aiohttp"], full=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    judging = judge.Judge(plan, [workload], ["asyncio"], every_setting=False)
    judging.prepare()
    assert judging.left_out == {"http/aiohttp": "wrk is not on PATH (Debian: wrk)"}
    assert list(judging.pairs(0)) == []
    result = _result([], "http/aiohttp")
    result.left_out = judging.left_out
    assert "wrk is not on PATH" in report.whole(result)


def test_compiler_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.c").write_text("int main(void) { return }\n")
    monkeypatch.setattr(native, "SOURCES", tmp_path)
    monkeypatch.setattr(native, "PROGRAMS", tmp_path)
    with pytest.raises(native.CannotCompile) as caught:
        native.build("broken")
    assert "\n" not in str(caught.value)


def test_wrk_is_understood() -> None:
    assert http.parse(WRK_SAYS) == {"operations": 37431, "seconds": 1.1, "p50_us": 850.0, "p99_us": 3410.0}
    with pytest.raises(NotMeasured, match="Non-2xx"):
        http.parse(WRK_SAYS + "  Non-2xx or 3xx responses: 3\n")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not on PATH")
@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed")
def test_web_server_under_wrk(plan: Plan) -> None:
    (workload,) = workloads.chosen(["http/aiohttp"], full=False)
    assert isinstance(workload, workloads.Http)
    answer = http.run(workload, "aioqemu", plan, nobody)
    assert answer["operations"] > 0 and answer["user_us"] > 0 and answer["peak_kib"] > 0


def test_ratios_are_those_within_a_round() -> None:
    # The machine became ten times slower; the loop stayed twice as fast as the other.
    rates = (("a", 0, 200.0), ("uvloop", 0, 100.0), ("a", 1, 20.0), ("uvloop", 1, 10.0), ("a", 2, 400.0))
    result = _result([Sample("w", loop, turn, per_s=rate) for loop, turn, rate in rates], "w")
    assert result.ratio("w", "a", "uvloop") == 2.0


def test_names_of_workloads_are_unique_and_patterns_match() -> None:
    names = [workload.name for workload in workloads.registry()]
    assert len(names) == len(set(names))
    assert {workload.name for workload in workloads.chosen(["udp/*", "idle/*"], full=False)} == {
        "udp/50x64B",
        "udp/50x1200B",
        "idle/10000",
    }


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plots(tmp_path: Path) -> None:
    from bench import plots

    samples = [Sample("tcp/x/1x1KiB", name, 0, per_s=5.0, p50_us=1.0, p99_us=2.0) for name in ("aioqemu", "uvloop")]
    result = _result(samples, "tcp/x/1x1KiB", ["aioqemu", "uvloop"])
    drawn = plots.draw(result, tmp_path)
    assert {path.name for path in drawn} == {"tcp.svg", "p50.svg", "p99.svg"}
    assert all(path.stat().st_size for path in drawn)


def _result(samples: list[Sample], workload: str, loops: list[str] | None = None) -> results.Results:
    return results.Results(
        date="2000-01-01T00:00:00+00:00",
        machine={
            "cpus": 2,
            "cpu": "a",
            "kernel": "6",
            "python": "3",
            "openssl": "3",
            "commit": "",
            "packages": {},
            "environment": {},
        },
        arguments={"rounds": 1, "seconds": 0.1},
        loops=loops or ["asyncio"],
        workloads=[{"name": workload, "operation": "operation"}],
        samples=samples,
    )
