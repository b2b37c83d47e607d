"""Every probe of the API table holds on every backend and on the stdlib's loop; the docs name them all."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys

import pytest

from tools.compatibility import asker, loops, registry, table

PROBES = registry.load()
DOCUMENT = asker.ROOT / "docs" / "compatibility.md"
# What asyncio documents with methods of its own; each must be used by a probe.
PUBLIC = (
    asyncio.AbstractEventLoop,
    asyncio.AbstractServer,
    asyncio.Handle,
    asyncio.TimerHandle,
    asyncio.Transport,
    asyncio.DatagramTransport,
    asyncio.SubprocessTransport,
)


@pytest.fixture(scope="module", params=[*loops.OURS, "reference"])
def answers(request):
    """(name, key -> (cell, traceback)) of all selected probes, for each backend and the stdlib's loop."""
    name = "asyncio" if request.param == "reference" else request.param
    selected = {
        item.callspec.params["probe"].key: item.callspec.params["probe"]
        for item in request.session.items
        if getattr(item, "originalname", "") == "test_documented_behaviour"
    }
    try:
        return name, asker.ask_all(name, list(selected.values()))
    except asker.Unavailable as reason:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not usable here: {reason}")


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.key)
def test_documented_behaviour(answers, probe):
    name, cells = answers
    cell, details = cells[probe.key]
    if cell == "-":
        pytest.skip("this Python does not have it")
    if cell.startswith("cannot tell"):
        pytest.skip(cell)
    if name == "asyncio" and cell != "yes" and probe.stdlib_wrong:
        pytest.skip(f"the stdlib is wrong: {probe.stdlib_wrong}")
    assert cell == "yes", f"{cell}\n{details}"


def test_titles_are_unique():
    assert len({probe.key for probe in PROBES}) == len(PROBES)


def test_the_table_in_the_docs_names_every_probe():
    section = DOCUMENT.read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    missing = []
    for probe in PROBES:
        under = section.partition(f"### {table.escape(probe.topic)}\n")[2].partition("\n### ")[0]
        if f"| {table.title(probe)} |" not in under:
            missing.append(probe.key)
    assert not missing, "run make api-table"


def test_the_table_in_the_docs_names_nothing_else():
    section = DOCUMENT.read_text().partition(table.BEGIN)[2].partition(table.END)[0]
    topics = section.split("\n### ")[1:]
    named = [line for topic in topics for line in topic.splitlines() if line.startswith("| ")]
    # Two lines of each topic's table are its head.
    assert len(named) - 2 * len(topics) == len(PROBES)


@pytest.fixture(scope="module")
def attributes_used():
    """The names of all attributes that probes use."""
    modules = {inspect.getmodule(probe.function) for probe in PROBES}
    nodes = [node for module in modules for node in ast.walk(ast.parse(inspect.getsource(module)))]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_every_public_method_is_used_by_a_probe(public, attributes_used):
    methods = {name for name, _ in inspect.getmembers(public, callable) if not name.startswith("_")}
    assert not methods - attributes_used


ENDS = {
    "async def probe(): assert 1 > 2, 'not more'": "no: not more",
    "async def probe(): raise LookupError('text')": "no: LookupError: text",
    "async def probe(): asyncio.get_running_loop().call_soon(divmod, 1, 0); await asyncio.sleep(0.01)": "no: ZeroDiv",
    "async def probe(): os.abort()": "crash: SIGABRT",
    "async def probe(): os._exit(3)": "crash: exit 3",
    "async def probe(): time.sleep(60)": "hang",
    "async def probe(): await asyncio.sleep(60)": "no: nothing comes",
    "def probe(make_loop): make_loop().close()": "yes",
    "def probe(make_loop): raise registry.CannotTell('needs root')": "cannot tell: needs root",
}
# Asked the way the children do it, in a process of its own as they are: it forks.
ASK_ENDS = """
import asyncio, os, sys, time
from tools.compatibility import child, loops, registry
child.PROBE_SECONDS, child.HANG_SECONDS = 0.2, 1
for code in sys.argv[1:]:
    exec(code)
    print(child.in_fork(registry.Probe("Test", "a probe", probe, (3, 10), True, ""), loops.Maker("asyncio"))[0])
"""


def test_a_probe_that_fails_is_not_a_yes():
    command = [sys.executable, "-W", "ignore", "-c", ASK_ENDS, *ENDS]
    output = subprocess.run(command, cwd=asker.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    for cell, (code, expected) in zip(output.splitlines(), ENDS.items(), strict=True):
        assert cell.startswith(expected), code


def test_a_section_replaces_its_predecessor_and_nothing_else(tmp_path):
    path = tmp_path / "compatibility.md"
    path.write_text("# Compatibility\n\n## Other\n\ntext\n")
    for words in ("first", "second"):
        table.replace(path, f"{table.BEGIN}\n{words}\n{table.END}")
        path.write_text(path.read_text() + "\n## After\n" * (words == "first"))
    text = path.read_text()
    assert (
        "first" not in text and text.count("second") == 1 and text.startswith("# Compatibility\n\n## Other\n\ntext\n")
    )
    assert text.endswith("## After\n")
