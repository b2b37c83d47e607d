"""Fuzz one target: python -m tests.fuzz TARGET [--seconds N] [--seed N] [--blind] [INPUT ...]

With atheris (pip install atheris; it has wheels for some Pythons) coverage guides it: of Python code, and of the
compiled modules that were built for that, in a copy of the tree:

    export CC=clang CFLAGS="-O1 -fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp"
    python -c "from setuptools import setup; setup()" build_ext --inplace

Without it, or with --blind, inputs are made from the seeds by chance. INPUT: files that are tried, once each, instead.
What fails is printed, as bytes, and the exit status is not 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType

from tests.fuzz.mutate import mutated

TARGETS = ["addresses", "arguments", "parser", "tls"]


def blind(target: ModuleType, seconds: float, seed: int) -> None:
    source = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    for data in target.SEEDS:
        target.target(data)
    while time.monotonic() < end:
        data = mutated(source, target.SEEDS)
        try:
            target.target(data)
        except BaseException:
            print(f"{target.__name__}: {data!r}")
            raise
        count += 1
    print(f"{target.__name__}: {count} inputs, {time.process_time():.0f} s of CPU")


def guided(name: str, seconds: float, seed: int) -> None:
    """Does not return: libFuzzer ends the process."""
    # Compiled modules look up there what they were instrumented for.
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)
    import atheris
    import atheris.core_with_libfuzzer

    with atheris.instrument_imports(include=["aioqemu_loop", "tests.fuzz"]):
        target = importlib.import_module(f"tests.fuzz.{name}")
    seeds = Path(f"build/fuzz/{name}")
    seeds.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(target.SEEDS):
        (seeds / f"seed{i}").write_bytes(data)
    options = [f"-max_total_time={seconds:.0f}", f"-seed={seed}", "-max_len=512", "-print_final_stats=1", "-timeout=20"]
    atheris.Setup([sys.argv[0], *options, str(seeds)], target.target, internal_libfuzzer=True)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("inputs", nargs="*", type=Path)
    options = parser.parse_args()
    if options.inputs:
        target = importlib.import_module(f"tests.fuzz.{options.target}")
        for path in options.inputs:
            target.target(path.read_bytes())
    elif options.blind or importlib.util.find_spec("atheris") is None:
        blind(importlib.import_module(f"tests.fuzz.{options.target}"), options.seconds, options.seed)
    else:
        guided(options.target, options.seconds, options.seed)


if __name__ == "__main__":
    main()
