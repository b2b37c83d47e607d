"""The benchmark of files does what it says on every way, and leaves no file behind. Its numbers are not looked at."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import loops, results
from bench.cases.clock import Clock
from bench.files import fio, report
from bench.files.ways import BLOCK, FIO, WAYS, why_not
from bench.files.workloads import BATCH, RECORD, SMALL, WORKLOADS, Job
from bench.samples import Sample

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 50
SIZE = 1 << 20
COUNT = 20
FIO_SAYS = {
    "jobs": [{"read": {"total_ios": 4000, "runtime": 2000}, "usr_cpu": 10.0, "sys_cpu": 30.0}],
}


def job(way: str, folder: Path, depth: int) -> Job:
    data = folder.with_name("data")
    data.write_bytes(bytes(SIZE))
    folder.mkdir()
    return Job(WAYS[way].library(), Clock(0.005), depth, folder, str(data), SIZE, COUNT)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_on_every_way(way: str, workload: str, tmp_path: Path) -> None:
    if reason := why_not(way):
        pytest.skip(reason)
    folder = tmp_path / "own"

    async def main() -> dict[str, float]:
        case = job(way, folder, depth=3)
        await WORKLOADS[workload].case(case)
        return case.clock.result()

    answer = loops.run(WAYS[way].loop, main())
    assert answer["operations"] > 0 and answer["seconds"] > 0
    left = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if workload.startswith("small/write"):
        assert left == {f"new{number}": SMALL for number in range(COUNT)}
        assert answer["operations"] == COUNT
    elif workload == "metadata/unlink":
        assert not left and answer["operations"] == COUNT
    elif workload == "log/append":
        assert left["log"] == RECORD * int(answer["operations"])
    elif workload.startswith("sequential/write"):
        size = sum(map(len, left.values()))
        assert size and size % (answer["operations"] // BATCH) == 0


def test_one_command_measures_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench.files", "--quick", "--size", "1", "--count", "5", "--seconds", "0.05"]
    command += ["--workloads", "random/cached,metadata/unlink", "--ways", "threads,blocking,fio", "--depths", "1,2"]
    command += ["--folder", str(tmp_path), "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    result = results.load(path)
    for workload in ("random/cached", "metadata/unlink"):
        assert result.middle(f"{workload}@1", "blocking", "per_s")
        assert not result.of(f"{workload}@2", "blocking")  # it would be the same again
        assert result.middle(f"{workload}@2", "threads", "per_s")
    assert bool(result.middle("random/cached@2", FIO, "per_s")) == (shutil.which("fio") is not None)
    assert ("fio is not on PATH" in done.stdout) == (shutil.which("fio") is None)
    assert "| 4 KiB read/s @1 |" in done.stdout


def test_nothing_is_left_when_it_is_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.files", "--size", "1", "--ways", "blocking", "--folder", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not any(tmp_path.glob("*/data")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_wrong_words_are_told() -> None:
    for words in (["--workloads", "nonsense/*"], ["--ways", "nonsense"]):
        command = [sys.executable, "-m", "bench.files", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 2 and "nonsense" in done.stderr


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not on PATH")
def test_fio_measures_for_so_long(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(SIZE))
    answer = fio.measure(WORKLOADS["random/cached"].fio, 8, 0.2, str(data))
    assert 0.15 < answer["seconds"] < 5 and answer["operations"] > SIZE / BLOCK


def test_fio_is_understood() -> None:
    assert fio.parse("fio: a warning\n" + json.dumps(FIO_SAYS)) == {
        "operations": 4000,
        "seconds": 2.0,
        "user_us": 200_000.0,
        "sys_us": 600_000.0,
    }


def test_failures_and_ratios_are_in_the_table() -> None:
    samples = [
        Sample("w@1", "aiofiles", 0, per_s=100.0, user_us=10.0, sys_us=2.5),
        Sample("w@1", "threads", 0, per_s=250.0, user_us=4.0, sys_us=1.0),
        Sample("w@1", "anyio", 0, "it said\nno | nothing"),
    ]
    result = results.Results(
        date="",
        machine={},
        arguments={},
        loops=["aiofiles", "threads", "anyio"],
        workloads=[{"name": "w@1", "workload": "w", "depth": 1, "operation": "call"}],
        samples=samples,
    )
    lines = report.one(result, "w", "aiofiles").splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["threads", "250", "2.50", "5.0", ""]
    assert "failed 1 times: no / nothing" in lines[4]
