"""create_task's keywords and task factories, as this Python's asyncio takes them; eager tasks; introspection."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import io
import os
import subprocess
import sys
import threading

import pytest

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def outcome(call):
    """What call() returns, or the type of what it raises."""
    try:
        return call()
    except Exception as exc:
        return type(exc)


async def describe():
    task = asyncio.current_task()
    return task.get_name(), variable.get(), type(task).__name__


class OwnTask(asyncio.Task):
    pass


def plain_factory(loop, coro):
    return OwnTask(coro, loop=loop)


def context_factory(loop, coro, context=None):
    return OwnTask(coro, loop=loop) if context is None else OwnTask(coro, loop=loop, context=context)


def open_factory(loop, coro, **kwargs):
    return OwnTask(coro, loop=loop, **kwargs)


FACTORIES = {"none": None, "plain": plain_factory, "context": context_factory, "kwargs": open_factory}
if sys.version_info >= (3, 12):
    FACTORIES["eager"] = asyncio.eager_task_factory
    FACTORIES["own eager"] = asyncio.create_eager_task_factory(OwnTask)


def keywords():
    with_value = contextvars.copy_context()
    with_value.run(variable.set, "given")
    return {
        "nothing": {},
        "name": {"name": "given"},
        "name None": {"name": None},
        "context": {"context": with_value},
        "eager_start": {"eager_start": True},
        "not eager_start": {"eager_start": False},
        "all": {"name": "given", "context": with_value, "eager_start": True},
        "unknown": {"unknown": 1},
    }


def create(loop, factory, options):
    """What a task that was created so says of itself, and how far it had come when create_task() returned."""

    async def main():
        loop.set_task_factory(factory)
        steps = []

        async def child():
            steps.append("begun")
            await asyncio.sleep(0)
            return await describe()

        coroutine = child()
        try:
            task = loop.create_task(coroutine, **options)
        finally:
            loop.set_task_factory(None)
            if sys.exc_info()[1] is not None:
                coroutine.close()
        at_once = list(steps)
        name, value, kind = await task
        return at_once, "a default" if name.startswith("Task-") else name, value, kind

    return loop.run_until_complete(main())


@pytest.mark.parametrize("options", sorted(keywords()))
@pytest.mark.parametrize("factory", sorted(FACTORIES))
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_create_task_takes_what_the_stdlibs_takes(loop, factory, options):
    """Keywords are passed on untouched, and only where they are given."""
    reference = asyncio.SelectorEventLoop()
    try:
        expected = outcome(lambda: create(reference, FACTORIES[factory], keywords()[options]))
    finally:
        reference.close()
    assert outcome(lambda: create(loop, FACTORIES[factory], keywords()[options])) == expected


def test_create_task_has_the_stdlibs_signature(loop):
    assert inspect.signature(loop.create_task) == inspect.signature(asyncio.BaseEventLoop.create_task.__get__(loop))


def test_another_class_in_the_place_of_task_is_used(run, any_loop, monkeypatch):
    async def main():
        monkeypatch.setattr(asyncio.tasks, "Task", OwnTask)
        return await any_loop.create_task(describe())

    assert run(main())[2] == "OwnTask"


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
def test_what_create_task_refuses(loop, debug):
    """With the words of the stdlib, and without a task left behind."""
    reference = asyncio.SelectorEventLoop()
    words = []
    for each in (loop, reference):
        each.set_debug(debug)
        with pytest.raises(TypeError) as not_a_coroutine:
            each.create_task(1)
        each.run_until_complete(asyncio.sleep(0))
        each.close()
        coroutine = describe()
        with pytest.raises(RuntimeError) as closed:
            each.create_task(coroutine)
        coroutine.close()
        words.append((str(not_a_coroutine.value), str(closed.value)))
    assert words[0] == words[1]


def test_a_tasks_source_traceback_ends_where_it_was_created(run, any_loop):
    any_loop.set_debug(True)

    async def main():
        task = any_loop.create_task(describe())
        await task
        return task._source_traceback[-1].name

    assert run(main()) == "main"


def test_a_factory_without_keywords_is_enough_for_tasks_and_task_groups(run, any_loop):
    any_loop.set_task_factory(plain_factory)

    async def main():
        kinds = [(await asyncio.create_task(describe()))[2], (await asyncio.gather(describe()))[0][2]]
        if sys.version_info >= (3, 11):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(describe())
            kinds.append(task.result()[2])
        return set(kinds)

    assert run(main()) == {"OwnTask"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
class TestEager:
    def test_a_task_runs_until_it_first_waits(self, run, any_loop):
        any_loop.set_task_factory(asyncio.eager_task_factory)

        async def main():
            steps = []

            async def child(name, waits):
                steps.append((name, asyncio.current_task() is not parent))
                if waits:
                    await asyncio.sleep(0)
                return name

            parent = asyncio.current_task()
            done, waiting = (asyncio.create_task(child(name, name == "b")) for name in "ab")
            assert steps == [("a", True), ("b", True)]
            assert asyncio.current_task() is parent
            assert done.done() and done.result() == "a"
            assert not waiting.done() and waiting in asyncio.all_tasks() and done not in asyncio.all_tasks()
            return await waiting

        assert run(main()) == "b"

    def test_an_exception_stays_in_the_task(self, run, any_loop):
        any_loop.set_task_factory(asyncio.eager_task_factory)

        async def fail():
            raise LookupError("text")

        async def main():
            task = asyncio.create_task(fail())
            with pytest.raises(LookupError, match="text"):
                await task

        run(main())

    def test_it_has_a_context_of_its_own(self, run, any_loop):
        any_loop.set_task_factory(asyncio.eager_task_factory)

        async def change():
            variable.set("changed")

        async def main():
            await asyncio.create_task(change())
            return variable.get()

        assert run(main()) == "unset"


class TestIntrospection:
    def test_all_tasks_and_current_task(self, run, any_loop):
        async def main():
            task = asyncio.create_task(asyncio.sleep(0), name="child")
            assert {each.get_name() for each in asyncio.all_tasks()} >= {"child", asyncio.current_task().get_name()}
            await task
            assert task not in asyncio.all_tasks()
            assert asyncio.current_task(any_loop) is asyncio.current_task()

        run(main())
        assert asyncio.all_tasks(any_loop) == set()
        assert asyncio.current_task(any_loop) is None

    def test_callbacks_have_no_current_task(self, any_loop):
        seen = []
        any_loop.call_soon(lambda: seen.append(asyncio.current_task()))
        any_loop.run_until_complete(asyncio.sleep(0))
        assert seen == [None]

    def test_tasks_of_a_loop_in_another_thread_are_seen(self, any_loop):
        ready, done = threading.Event(), any_loop.create_future()

        async def main():
            ready.set()
            await done

        thread = threading.Thread(target=lambda: any_loop.run_until_complete(asyncio.wait_for(main(), 30)))
        thread.start()
        assert ready.wait(30)
        tasks = asyncio.all_tasks(any_loop)
        any_loop.call_soon_threadsafe(done.set_result, None)
        thread.join()
        assert 1 <= len(tasks) <= 2  # up to 3.11 wait_for makes a second one

    def test_stacks(self, run, any_loop):
        async def waits_here():
            await any_loop.create_future()

        async def main():
            task = asyncio.create_task(waits_here())
            await asyncio.sleep(0)
            (frame,) = task.get_stack()
            text = io.StringIO()
            task.print_stack(file=text)
            task.cancel()
            return frame.f_code.co_name, text.getvalue()

        name, text = run(main())
        assert name == "waits_here" and "waits_here" in text

    @pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with 3.14")
    def test_call_graphs(self, run, any_loop):
        async def leaf():
            await any_loop.create_future()

        async def branch():
            await leaf()

        async def main():
            async with asyncio.TaskGroup() as group:
                task = group.create_task(branch(), name="branch")
                await asyncio.sleep(0)
                graph = asyncio.capture_call_graph(task)
                task.cancel()
                return (
                    [entry.frame.f_code.co_name for entry in graph.call_stack],
                    [waiter.future is asyncio.current_task() for waiter in graph.awaited_by],
                    asyncio.format_call_graph(task),
                )

        names, waiters, text = run(main())
        assert names == ["leaf", "branch"]
        assert waiters in ([True], [])  # main() is not in the group's __aexit__ yet
        assert "branch" in text


WAITING = """
import asyncio, functools, aioqemu_loop

async def deep_inside():
    asyncio.get_running_loop().call_soon(functools.partial(print, "waiting", flush=True))
    await asyncio.get_running_loop().create_future()

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(deep_inside(), name="the named one")

aioqemu_loop.run(main(), fdmon={fdmon!r})
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio ps came with 3.14")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_python_m_asyncio_sees_the_tasks_of_another_process(fdmon, command):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    code = WAITING.format(fdmon=fdmon)
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "waiting\n"
            asked = [sys.executable, "-m", "asyncio", command, str(child.pid)]
            result = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        finally:
            child.kill()
    if "ermission" in result.stderr:
        pytest.skip("another process may not be looked into here")
    assert result.returncode == 0, result.stderr
    assert "the named one" in result.stdout and "deep_inside" in result.stdout
