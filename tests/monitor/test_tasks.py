"""query-tasks and task-cancel: states, stacks, ages, who waits for whom."""

from __future__ import annotations

import asyncio
import collections.abc
import linecache
import os
import sys
import threading

import pytest

from aioqemu_loop.monitor.errors import QMPError


async def inner(future):
    return await future


async def outer(future):
    return await inner(future)


def by_name(tasks):
    return {task["name"]: task for task in tasks}


def test_a_waiting_tasks_stack_goes_down_to_where_it_waits(program, ask, loop_id):
    future = program.loop.create_future()
    program.start(outer(future), name="waiter")
    found = by_name(ask("query-tasks"))["waiter"]
    assert [frame["function"] for frame in found["stack"]] == ["outer", "inner"]
    assert [frame["text"] for frame in found["stack"]] == ["return await inner(future)", "return await future"]
    assert (found["loop"], found["state"], found["coroutine"], found["cancelling"]) == (
        loop_id,
        "waiting",
        "outer",
        False,
    )
    assert found["waiting-for"] == {"type": "_asyncio.Future", "task": None}
    assert "stack" not in by_name(ask("query-tasks", stacks=False))["waiter"]
    program.loop.call_soon_threadsafe(future.set_result, None)


def test_the_running_tasks_stack_is_the_threads(program, ask):
    begun, over = threading.Event(), threading.Event()

    def block_in_here():
        begun.set()
        over.wait(15)

    async def block():
        block_in_here()

    program.loop.call_soon_threadsafe(lambda: program.loop.create_task(block(), name="blocker"))
    assert begun.wait(15)
    try:
        found = by_name(ask("query-tasks"))["blocker"]
    finally:
        over.set()
    assert found["state"] == "running" and found["waiting-for"] is None
    functions = [frame["function"].rpartition(".")[2] for frame in found["stack"]]
    assert functions[:2] == ["block", "block_in_here"] and functions[-1] == "wait"


def test_a_task_that_has_not_begun_is_ready(program, ask):
    with program.blocked():
        task = []
        program.loop.call_soon_threadsafe(lambda: None)
        begun = threading.Event()
    program.run(asyncio.sleep(0))

    def make_and_block():
        task.append(program.loop.create_task(asyncio.sleep(0), name="fresh"))
        begun.set()
        over.wait(15)

    over = threading.Event()
    program.loop.call_soon_threadsafe(make_and_block)
    assert begun.wait(15)
    try:
        assert by_name(ask("query-tasks"))["fresh"]["state"] == "ready"
    finally:
        over.set()


def test_ages_are_those_of_tasks_made_since(program, ask):
    program.start(asyncio.sleep(60), name="young")
    first = by_name(ask("query-tasks"))["young"]["age"]
    second = by_name(ask("query-tasks"))["young"]["age"]
    assert 0 <= first <= second < 30


def test_no_age_for_a_task_that_was_there_before(program, tmp_path):
    from aioqemu_loop import monitor
    from aioqemu_loop.monitor.client import Client

    program.start(asyncio.sleep(60), name="old")
    with monitor.start(tmp_path / "late") as late, Client(late.address) as client:
        assert by_name(client.execute("query-tasks"))["old"]["age"] is None
    assert not program.loop._notes_task_births


async def wait_for_both(*tasks):
    await asyncio.wait(tasks)


async def wait_for_one(task):
    await asyncio.wait_for(task, 60)


async def shielding(task):
    await asyncio.shield(task)


async def gathering(*tasks):
    await asyncio.gather(*tasks)


async def awaiting(task):
    await task


@pytest.mark.parametrize("way", [wait_for_both, wait_for_one, shielding, gathering, awaiting])
def test_who_waits_for_whom(program, ask, way):
    child = program.start(asyncio.sleep(60), name="child")
    program.start(way(child), name="parent")
    program.run(asyncio.sleep(0))
    found = by_name(ask("query-tasks"))
    assert found["child"]["awaited-by"] == [found["parent"]["id"]]
    assert found["parent"]["awaited-by"] == []
    if way is awaiting:
        assert found["parent"]["waiting-for"]["task"] == found["child"]["id"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TaskGroup came with 3.11")
def test_a_task_group_waits_for_its_tasks(program, ask):
    async def group():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60), name="first")
            group.create_task(asyncio.sleep(60), name="second")

    program.start(group(), name="parent")
    program.run(asyncio.sleep(0))
    found = by_name(ask("query-tasks"))
    for name in ("first", "second"):
        assert found[name]["awaited-by"] == [found["parent"]["id"]]


def test_the_limit_is_per_loop(program, ask):
    for _ in range(5):
        program.start(asyncio.sleep(60))
    assert len(ask("query-tasks")) == 5
    assert len(ask("query-tasks", limit=2)) == 2


def test_task_cancel(program, ask):
    task = program.start(asyncio.sleep(60), name="victim")
    program.start(asyncio.sleep(60), name="bystander")
    ask("task-cancel", task=by_name(ask("query-tasks"))["victim"]["id"])
    program.run(asyncio.wait([task]))
    assert task.cancelled()
    assert list(by_name(ask("query-tasks"))) == ["bystander"]


def test_task_cancel_of_none(ask, loop_id):
    with pytest.raises(QMPError, match="Task 'task0' not found"):
        ask("task-cancel", task="task0")


def test_ids_are_not_used_again(program, ask):
    program.run(asyncio.sleep(0))
    seen = set()
    for _ in range(20):
        task = program.start(asyncio.sleep(60), name="one")
        (found,) = ask("query-tasks")
        assert found["id"] not in seen
        seen.add(found["id"])
        program.call(task.cancel)
        program.run(asyncio.wait([task]))
        del task


def test_no_code_of_the_program_runs(program, ask):
    class Hostile:
        def __repr__(self):
            raise AssertionError("somebody asked")

        __str__ = __repr__

        def __call__(self):
            pass

    async def work(thing):
        await asyncio.sleep(60)

    program.start(work(Hostile()), name="hostile")
    program.call(program.loop.call_later, 60, Hostile())
    assert "hostile" in by_name(ask("query-tasks"))
    assert ask("query-timers")[-1]["callback"].endswith("Hostile")


def of_the_program(*_args, **_kwargs):
    ran.append(threading.current_thread().name)


ran: list[str] = []


class CurioTask(asyncio.Task):
    """Each of these is the program's code."""

    def get_name(self):
        of_the_program()
        return "made up"

    def get_coro(self):
        of_the_program()

    def cancelling(self):
        of_the_program()

    _fut_waiter = property(of_the_program)
    _callbacks = property(of_the_program)
    __repr__ = of_the_program


class CurioCoroutine(collections.abc.Coroutine):
    """Never done."""

    def __getattribute__(self, name):
        of_the_program()
        return object.__getattribute__(self, name)

    def send(self, value):
        return None

    def throw(self, *_):
        raise StopIteration

    def __await__(self):
        yield


class CurioThread(threading.Thread):
    name = ident = native_id = daemon = property(of_the_program)


def test_no_code_of_the_programs_is_called(program, ask, client):
    future = program.loop.create_future()
    ran.clear()

    def make():
        program.loop.set_task_factory(lambda loop, coro, **options: CurioTask(coro, loop=loop, **options))
        try:
            return program.loop.create_task(outer(future), name="curio")
        finally:
            program.loop.set_task_factory(None)

    task = program.call(make)
    waiting = program.start(awaiting(task))
    other = program.call(lambda: asyncio.Task(CurioCoroutine(), loop=program.loop, name="other"))
    thread = make_curio_thread()
    ran.clear()
    try:
        tasks = by_name(ask("query-tasks"))
        assert tasks["other"]["coroutine"].endswith("CurioCoroutine") and tasks["other"]["stack"] == []
        found = tasks["curio"]
        assert found["coroutine"] == "outer" and found["state"] == "waiting" and len(found["stack"]) == 2
        assert found["awaited-by"]
        assert "curio thread" in {
            thread["name"] for thread in client.execute("dump-stacks", {"tasks": True})["threads"]
        }
        ask("query-timers")
        ask("query-handlers")
        ask("query-loops")
        assert "aioqemu-monitor" not in ran
    finally:
        thread()
        other.get_loop().call_soon_threadsafe(other.cancel)
        program.loop.call_soon_threadsafe(future.set_result, None)
        program.run(asyncio.wait([waiting]))


def make_curio_thread():
    """Returns what ends it."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="curio thread")
    thread.start()
    thread.__class__ = CurioThread

    def end():
        thread.__class__ = threading.Thread
        over.set()
        thread.join()

    return end


def test_source_is_not_read_by_loaders(program, client):
    """linecache would ask a module's __loader__ for it, which may be anything."""
    asked = []

    class Loader:
        def get_source(self, name):
            asked.append(threading.current_thread().name)
            return "a line\n" * 20

    names = {"__name__": "made.up", "__loader__": Loader(), "__spec__": None}
    exec(compile("def hold(begun, over):\n    begun.set()\n    over.wait(15)\n", "/no/such/made_up.py", "exec"), names)
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=names["hold"], args=(begun, over))
    thread.start()
    assert begun.wait(15)
    try:
        for lazily in (False, True):
            if lazily:
                linecache.lazycache("/no/such/made_up.py", names)  # as traceback does
            stacks = [thread["stack"] for thread in client.execute("dump-stacks")["threads"]]
            (frame,) = (frame for stack in stacks for frame in stack if frame["function"] == "hold")
            assert (frame["file"], frame["line"], frame["text"]) == ("/no/such/made_up.py", 3, "")
    finally:
        over.set()
        thread.join()
        linecache.cache.pop("/no/such/made_up.py", None)
    assert asked == []


def test_source_is_not_read_from_pipes(client, tmp_path):
    """As of `python <(generate)`: that may never end."""
    pipe = str(tmp_path / "program.py")
    os.mkfifo(pipe)
    names = {}
    exec(compile("def hold(begun, over):\n    begun.set()\n    over.wait(15)\n", pipe, "exec"), names)
    begun, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=names["hold"], args=(begun, over))
    thread.start()
    assert begun.wait(15)
    try:
        assert pipe in {f["file"] for t in client.execute("dump-stacks")["threads"] for f in t["stack"]}
    finally:
        over.set()
        thread.join()
