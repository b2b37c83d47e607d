"""A program whose loop runs in a thread of its own, and a monitor that tells about it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioqemu_loop
from aioqemu_loop import monitor
from aioqemu_loop.monitor.client import Client

PATIENCE = 15.0


class Program:
    """What runs in its loop is the test's; the test itself is in another thread."""

    def __init__(self, fdmon: str) -> None:
        self.loop = aioqemu_loop.new_event_loop(fdmon=fdmon)
        self._thread = threading.Thread(target=self.loop.run_forever, name="program", daemon=True)
        self._thread.start()
        self.run(asyncio.sleep(0))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What it returns in the loop's thread."""

        async def call_it() -> Any:
            return function(*args)

        return self.run(call_it())

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        """A task in the loop, in its first wait."""
        task = self.call(lambda: self.loop.create_task(coroutine, name=name))
        self.run(asyncio.sleep(0))
        return task

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """The loop is held by one callback meanwhile."""
        begun, over = threading.Event(), threading.Event()

        def hold_the_loop() -> None:
            begun.set()
            assert over.wait(PATIENCE)

        self.loop.call_soon_threadsafe(hold_the_loop)
        assert begun.wait(PATIENCE)
        try:
            yield
        finally:
            over.set()

    def close(self) -> None:
        async def end_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()
            await self.loop.shutdown_default_executor()

        self.run(end_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


@pytest.fixture
def program(fdmon: str, no_leaks: None) -> Iterator[Program]:
    """On each backend."""
    program = Program(fdmon)
    yield program
    program.close()


@pytest.fixture
def watched(tmp_path: Path, no_leaks: None) -> Iterator[monitor.Monitor]:
    """A monitor that calls a loop stalled after 50 ms."""
    with monitor.start(tmp_path / "monitor", stall_seconds=0.05) as started:
        yield started


@pytest.fixture
def client(watched: monitor.Monitor) -> Iterator[Client]:
    with Client(watched.address) as client:
        yield client


@pytest.fixture
def loop_id(program: Program, client: Client) -> str:
    """The id of the program's loop: other tests may have left some that are not closed."""
    return str(client.execute("query-loops")[-1]["id"])


@pytest.fixture
def ask(client: Client, loop_id: str) -> Callable[..., Any]:
    """ask(command, **arguments) about the program's loop."""
    return lambda command, **arguments: client.execute(command, {"loop": loop_id, **arguments})


@pytest.fixture
def next_event(client: Client) -> Callable[[str], dict[str, Any]]:
    """next_event(name): waits for it; others are dropped."""

    def wait_for(name: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            while client.events:
                event = client.events.pop(0)
                if event["event"] == name:
                    return event
            client.execute("query-version")
            time.sleep(0.01)
        raise AssertionError(f"no event {name}")

    return wait_for
