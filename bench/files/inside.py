"""The process that is measured: `python -m bench.files.inside WAY WORKLOAD DEPTH SECONDS FOLDER DATA COUNT`.

FOLDER is where it may write, DATA a large file to read, COUNT how many small files it makes. It prints one line of
JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import NotMeasured, loops
from bench.cases.clock import Clock
from bench.children import peak_kib
from bench.files.ways import WAYS
from bench.files.workloads import WORKLOADS, Job


async def measure(way: str, workload: str, depth: int, seconds: float, folder: Path, data: str, count: int) -> Clock:
    library = WAYS[way].library()
    clock = Clock(seconds)
    gc.collect()
    gc.freeze()
    await WORKLOADS[workload].case(Job(library, clock, depth, folder, data, os.path.getsize(data), count))
    return clock


def main() -> None:
    way, workload, depth, seconds, folder, data, count = sys.argv[1:]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        main = measure(way, workload, int(depth), float(seconds), Path(own), data, int(count))
        try:
            clock = loops.run(WAYS[way].loop, main)
        except NotMeasured as reason:
            sys.exit(str(reason))
        answer = {"peak_kib": peak_kib("self")} | clock.result()
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
