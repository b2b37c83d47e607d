"""The documentation's code: programs are run, fragments compiled, and every name of ours in them exists."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioqemu_loop

from .blocks import PAGES, ROOT, Block, all_blocks

# What our objects are called in fragments.
KNOWN = {
    "loop": aioqemu_loop.Loop,
    "context": aioqemu_loop.AioContext,
    "source": aioqemu_loop.GSource,
    "thread": aioqemu_loop.IOThread,
    "pool": aioqemu_loop.IOThreadPool,
}
TIME_LIMIT_S = 30
PYTHON = all_blocks("python")


def parse(block: Block) -> ast.Module:
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(block.code, str(block), "exec", flags=flags, dont_inherit=True)
    assert isinstance(tree, ast.Module)
    return tree


def is_program(block: Block) -> bool:
    """It imports what it needs and runs a loop to its end. Blocks that are files are run by test_recipes.py."""
    runs = re.search(r"^(print\()?(aioqemu_loop|anyio)\.run\(|^ *context\.poll\(", block.code, re.MULTILINE)
    return bool(runs) and block.code.startswith("import ") and block.file_name is None


def our_names(tree: ast.Module) -> Iterator[tuple[object, str]]:
    """(object, the attribute that the block expects it to have)"""
    ours: dict[str, object] = dict(KNOWN)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aioqemu_loop":
            module = importlib.import_module(node.module or "")
            for name in node.names:
                yield module, name.name
                ours[name.asname or name.name] = getattr(module, name.name, None)
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.partition(".")[0] == "aioqemu_loop":
                    module = importlib.import_module(name.name)
                    ours[name.asname or name.name.partition(".")[0]] = sys.modules["aioqemu_loop"]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ours:
            yield ours[node.value.id], node.attr
        elif ast.unparse(node.value) in ("loop.context", "asyncio.get_running_loop().context"):
            yield aioqemu_loop.AioContext, node.attr


def test_there_are_blocks() -> None:
    assert len(PYTHON) > 20 and sum(map(is_program, PYTHON)) > 8


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_name_of_ours_exists(block: Block) -> None:
    if "glib" in block.code:
        pytest.importorskip("gi", reason="PyGObject is not installed")
    for owner, name in our_names(parse(block)):
        assert hasattr(owner, name), f"{block}: {owner!r} has no {name}"


@pytest.mark.parametrize("block", [block for block in PYTHON if is_program(block)], ids=str)
def test_programs_run(block: Block) -> None:
    if "import anyio" in block.code:
        pytest.importorskip("anyio")
    if "glib=True" in block.code:
        pytest.importorskip("gi", reason="PyGObject is not installed")
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-u", "-c", block.code.replace("8888", "0")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        if "serve_forever()" in block.code:  # runs until it is stopped: when it has said that it serves
            assert process.stdout is not None and select.select([process.stdout], [], [], TIME_LIMIT_S)[0], block
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIME_LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if "serve_forever()" in block.code:
        assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    else:
        assert process.returncode == 0 and not errors, errors


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`(?:python )?((?:examples|tests|tools|bench)/[\w/.-]+\.(?:py|sh|pyx))", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
