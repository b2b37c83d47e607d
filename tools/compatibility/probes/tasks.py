"""Futures, tasks, factories, contexts."""

from __future__ import annotations

import asyncio
import contextvars
import os

from tools.compatibility.registry import topic

probe = topic("Tasks and contexts")
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def value(result=42):
    return result


@probe("create_future: an asyncio.Future of this loop")
async def create_future():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    assert isinstance(future, asyncio.Future) and future.get_loop() is loop
    calls = []
    future.add_done_callback(calls.append)
    future.set_result(1)
    await asyncio.sleep(0)
    assert calls == [future]


@probe("create_task(name=): an asyncio.Task")
async def create_task():
    task = asyncio.get_running_loop().create_task(value(), name="mine")
    assert isinstance(task, asyncio.Task) and task.get_name() == "mine"
    assert await task == 42


@probe("create_task(context=)", since=(3, 11))
async def task_context():
    async def read():
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, "given")
    assert await asyncio.get_running_loop().create_task(read(), context=context) == "given"
    assert await asyncio.create_task(read()) == "unset"


@probe("set_task_factory, get_task_factory: the factory gets loop and coroutine")
async def task_factory():
    loop, seen = asyncio.get_running_loop(), []

    class Own(asyncio.Task):
        pass

    def factory(loop, coro, **keywords):
        seen.append(loop)
        return Own(coro, loop=loop, **keywords)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(value())
    assert type(task) is Own and seen == [loop] and await task == 42
    loop.set_task_factory(None)
    assert type(loop.create_task(value())) is asyncio.Task


@probe("a task factory of two arguments is enough where no keyword is given", promised=False)
async def plain_factory():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro: asyncio.Task(coro, loop=loop))
    assert await loop.create_task(value()) == 42


@probe("a task factory gets context= where it is given", since=(3, 11))
async def factory_context():
    loop, seen = asyncio.get_running_loop(), []

    def factory(loop, coro, **keywords):
        seen.append(keywords.get("context"))
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    context = contextvars.copy_context()
    await loop.create_task(value(), context=context)
    assert seen == [context]


@probe("asyncio.eager_task_factory starts tasks at once", since=(3, 12))
async def eager_factory():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    task = loop.create_task(value())
    assert task.done() and task.result() == 42, "not started at once"

    async def waits():
        await asyncio.sleep(0.001)
        return asyncio.current_task()

    task = asyncio.create_task(waits())
    assert await task is task


@probe("create_task(eager_start=True)", since=(3, 14))
async def eager_start():
    task = asyncio.get_running_loop().create_task(value(), eager_start=True)
    assert task.done(), "not started at once"
    task = asyncio.get_running_loop().create_task(value(), eager_start=False)
    assert not task.done() and await task == 42


@probe("create_task hands unknown keywords to the factory", since=(3, 14))
async def other_keywords():
    loop, seen = asyncio.get_running_loop(), []

    def factory(loop, coro, **keywords):
        seen.append(keywords.pop("custom"))
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    await loop.create_task(value(), custom="mine")
    assert seen == ["mine"]


@probe("current_task and all_tasks")
async def all_tasks():
    task = asyncio.ensure_future(asyncio.sleep(60))
    assert asyncio.all_tasks() >= {task, asyncio.current_task()}
    assert asyncio.all_tasks(asyncio.get_running_loop()) == asyncio.all_tasks()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled() and task not in asyncio.all_tasks()


@probe("TaskGroup: one failure cancels the rest", since=(3, 11))
async def task_group():
    async def fail():
        raise LookupError

    try:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.sleep(60))
            group.create_task(fail())
    except BaseException as error:
        assert type(error.exceptions[0]) is LookupError
    assert waiting.cancelled()


@probe("reader callbacks run in the context of add_reader", promised=False)
async def reader_context():
    loop = asyncio.get_running_loop()
    readable, writable = os.pipe()
    done = loop.create_future()

    def ready():
        loop.remove_reader(readable)
        done.set_result(variable.get())

    contextvars.copy_context().run(lambda: (variable.set("registered"), loop.add_reader(readable, ready)))
    os.write(writable, b"x")
    assert await done == "registered"


@probe("capture_call_graph shows who waits for whom", since=(3, 14))
async def call_graph():
    async def inner():
        return asyncio.format_call_graph(outer_task)

    async def outer():
        return await asyncio.create_task(inner(), name="inner")

    outer_task = asyncio.create_task(outer(), name="outer")
    assert "outer" in await outer_task
