"""Drive a real QEMU over QMP, with the package qemu.qmp on this loop (pip install qemu.qmp; Debian: qemu-system-x86).

python examples/qmp_client.py [--qemu qemu-system-x86_64]

Starts a machine without devices, asks what it is, changes the busy polling of its IOThread, stops and continues it,
reads the events that come of it, and ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path

from qemu.qmp import QMPClient

import aioqemu_loop


async def start(qemu: str, path: Path) -> asyncio.subprocess.Process:
    """A QEMU that connects to nothing but `path`, where somebody listens already."""
    return await asyncio.create_subprocess_exec(
        qemu,
        *("-machine", "none", "-nodefaults", "-display", "none"),
        *("-object", "iothread,id=disk"),
        *("-chardev", f"socket,id=qmp,path={path}", "-mon", "chardev=qmp,mode=control"),
    )


async def drive(qmp: QMPClient) -> None:
    version = (await qmp.execute("query-version"))["qemu"]
    print(f"QEMU {version['major']}.{version['minor']}")
    await qmp.execute("qom-set", {"path": "/objects/disk", "property": "poll-max-ns", "value": 65536})
    for thread in await qmp.execute("query-iothreads"):
        print(f"IOThread {thread['id']}: poll-max-ns {thread['poll-max-ns']}")
    with qmp.listener(("STOP", "RESUME", "SHUTDOWN")) as events:
        for command in ("stop", "cont", "quit"):
            await qmp.execute(command)
            print(f"{command}: {(await events.get())['event']}")


async def main(qemu: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "qmp")
        qmp = QMPClient("example")
        await qmp.start_server(str(path))
        machine = await start(qemu, path)
        try:
            await qmp.accept()
            await drive(qmp)
            print("exit status", await machine.wait())
        finally:
            if machine.returncode is None:
                machine.kill()
                await machine.wait()
            with contextlib.suppress(EOFError):  # how qemu.qmp tells that QEMU closed the connection first
                await qmp.disconnect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--qemu", default="qemu-system-x86_64")
    aioqemu_loop.run(main(parser.parse_args().qemu))
