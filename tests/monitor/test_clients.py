"""QEMU's own clients, unchanged: the package qemu.qmp and its qmp-shell."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

qmp = pytest.importorskip("qemu.qmp")


def qmp_shell(address, *lines, options=()):
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "qemu.qmp.qmp_shell", *options, address],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_the_client_of_qemu_qmp(program, watched, any_client_loop):
    async def use():
        client = qmp.QMPClient("test")
        await client.connect(watched.address)
        assert client.greeting.QMP.capabilities == []
        commands = {command["name"] for command in await client.execute("query-commands")}
        answers = {name: await client.execute(name) for name in commands if name.startswith("query-")}
        with pytest.raises(qmp.ExecuteError, match="The command nix has not been found") as caught:
            await client.execute("nix")
        assert caught.value.error_class == "CommandNotFound"
        await client.disconnect()
        return answers

    answers = any_client_loop.run_until_complete(use())
    assert answers["query-loops"] and answers["query-version"]


def test_events_for_the_client_of_qemu_qmp(program, watched, any_client_loop):
    async def use():
        client = qmp.QMPClient("test")
        await client.connect(watched.address)
        with client.listener(names=("LOOP_STALLED", "LOOP_RESUMED")) as events:
            with program.blocked():
                stalled = await asyncio.wait_for(events.get(), 15)
            resumed = await asyncio.wait_for(events.get(), 15)
        await client.disconnect()
        return stalled, resumed

    stalled, resumed = any_client_loop.run_until_complete(use())
    assert (stalled["event"], resumed["event"]) == ("LOOP_STALLED", "LOOP_RESUMED")
    assert "hold_the_loop" in stalled["data"]["stack"][-3]["function"] + stalled["data"]["stack"][-2]["function"]


@pytest.fixture(params=["stdlib", "ours"])
def any_client_loop(request):
    import aioqemu_loop

    loop = asyncio.SelectorEventLoop() if request.param == "stdlib" else aioqemu_loop.new_event_loop()
    yield loop
    loop.close()


def test_qmp_shell(program, watched):
    out = qmp_shell(
        watched.address, "query-version", "query-tasks limit=3 stacks=false", "task-cancel loop=loop0", "nix"
    )
    assert "Connected to QEMU 0.1" in out or "Connected to QEMU" in out
    assert '"package": "aioqemu_loop' in out
    assert '{"return": [' in out
    assert "Parameter 'task' is missing" in out
    assert "The command nix has not been found" in out


def test_qmp_shell_over_tcp():
    from aioqemu_loop import monitor

    with monitor.start("127.0.0.1:0") as started:
        assert '"thread-id"' in qmp_shell(started.address, "dump-stacks", options=["-p"])
