"""After os.setuid() a loop that root has made, ring, thread pool and all, may no more than the new user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import aioqemu_loop
from aioqemu_loop import files

from ..context.helpers import in_child

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """What root may do and others may not; and a folder that all may write to."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/tmp") and os.stat(folder).st_uid == os.getuid() and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("for root only")
    secret.chmod(0o600)
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "inside").write_text("text")
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    return {"secret": secret, "closed": closed, "everybodys": everybodys}


async def read(path: Path) -> str:
    async with files.open(path) as file:
        return str(await file.read())


async def write(path: Path) -> None:
    async with files.open(path, "w") as file:
        await file.write("x")


async def by_the_ring(path: Path) -> None:
    """openat2, by the ring and nothing else where there is one. Elsewhere by a thread."""
    loop: Any = asyncio.get_running_loop()
    if loop.fdmon == "io_uring":
        os.close(await loop.uring.openat2(path, os.O_RDONLY))
    else:
        os.close(await loop.run_in_executor(None, os.open, path, os.O_RDONLY))


def forbidden(places: dict[str, Path]) -> list[Callable[[], Awaitable[Any]]]:
    secret, closed = places["secret"], places["closed"]
    return [
        lambda: read(secret),
        lambda: write(secret),
        lambda: by_the_ring(secret),
        lambda: files.stat(closed / "inside"),
        lambda: read(closed / "inside"),
        lambda: write(secret.parent / "new"),
        lambda: files.mkdir(secret.parent / "folder"),
        lambda: files.unlink(closed / "inside"),
        lambda: files.rename(secret, places["everybodys"] / "secret"),
        lambda: files.link(secret, secret.parent / "link"),
        lambda: files.symlink("target", secret.parent / "symlink"),
        lambda: asyncio.get_running_loop().run_in_executor(None, secret.read_text),
    ]


async def attempts(places: dict[str, Path]) -> list[str]:
    """What became of each, by name of the exception."""
    found = []
    for attempt in forbidden(places):
        try:
            await attempt()
        except OSError as exc:
            found.append(type(exc).__name__)
        else:
            found.append("done")
    return found


@pytest.mark.parametrize("become", [os.setuid, os.seteuid], ids=["setuid", "seteuid"])
def test_what_only_root_may_is_refused(fdmon: str, places: dict[str, Path], become: Callable[[int], None]) -> None:
    def child() -> str:
        loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
        assert loop.run_until_complete(read(places["secret"])) == "for root only"
        loop.run_until_complete(by_the_ring(places["secret"]))
        # A thread that was there before.
        loop.run_until_complete(loop.run_in_executor(None, places["secret"].read_text))  # type: ignore[arg-type]
        become(NOBODY)
        found = loop.run_until_complete(attempts(places))
        loop.run_until_complete(write(places["everybodys"] / "own"))
        return f"{loop.fdmon} {sorted(set(found))} {len(found)}"

    assert in_child(child) == f"{fdmon} ['PermissionError'] 12"
    assert (places["everybodys"] / "own").stat().st_uid == NOBODY


def test_an_operation_belongs_to_the_user_by_whom_it_is_submitted(places: dict[str, Path], ring_loop: Any) -> None:
    """Not to whom it was asked for by: it was in the queue when the user changed."""

    def child() -> str:
        loop: Any = aioqemu_loop.new_event_loop(fdmon="io_uring")

        async def main() -> str:
            task = asyncio.ensure_future(by_the_ring(places["secret"]))
            loop.call_soon(os.setuid, NOBODY)
            try:
                await task
            except PermissionError:
                return "refused"
            return "done"

        return str(loop.run_until_complete(main()))

    assert in_child(child) == "refused"


def test_a_file_that_is_open_stays_readable(fdmon: str, places: dict[str, Path]) -> None:
    """As everywhere in Unix: rights are asked for when a file is opened."""

    def child() -> str:
        loop = aioqemu_loop.new_event_loop(fdmon=fdmon)

        async def main() -> str:
            async with files.open(places["secret"]) as file:
                os.setuid(NOBODY)
                return str(await file.read())

        return loop.run_until_complete(main())

    assert in_child(child) == "for root only"
