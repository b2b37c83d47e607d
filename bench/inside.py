"""The process of a loop that is measured from inside: `python -m bench.inside LOOP CASE SECONDS WARMUP [ADDRESS]`.

It warms up and prints "ready". Then for each line that it reads (before the first one strace may attach) it measures
and prints one line of JSON. CASE "none" only shows that the loop can be had and runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys

from bench import loops, syscalls
from bench.cases import clients, scheduling, system
from bench.cases.clock import Case, Clock
from bench.children import peak_kib

CASES: dict[str, Case] = {**scheduling.CASES, **system.CASES, **clients.CASES}


async def nothing() -> None:
    pass


async def measure(case: Case, seconds: float, warmup: float, address: str) -> None:
    await case(Clock(warmup, address))
    # The collector stays on, because handles and tasks cost it time. But its full passes should not walk the
    # modules that the benchmark happened to import.
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    while sys.stdin.readline():
        clock = Clock(seconds, address)
        await case(clock)
        answer = {"peak_kib": peak_kib("self")} | clock.result()  # in this order: the result sorts latencies
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop")
    parser.add_argument("case", choices=(*CASES, "none"))
    parser.add_argument("seconds", type=float, nargs="?", default=0.0)
    parser.add_argument("warmup", type=float, nargs="?", default=0.0)
    parser.add_argument("address", nargs="?", default="")
    words = parser.parse_args()
    if words.case == "none":
        try:
            loops.run(words.loop, nothing())
        except loops.LoopMissing as reason:
            sys.exit(str(reason))
        print("ready", flush=True)
        return
    syscalls.allow_tracing()
    loops.run(words.loop, measure(CASES[words.case], words.seconds, words.warmup, words.address))


if __name__ == "__main__":
    main()
