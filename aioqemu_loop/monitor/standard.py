"""Asking the program's objects with the standard library's own code: what a subclass overrides may do anything, and
here it would do it in the monitor's thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

_TASKS = (asyncio.Task, asyncio.tasks._PyTask)  # type: ignore[attr-defined]
_FUTURES = (asyncio.Future, asyncio.futures._PyFuture)  # type: ignore[attr-defined]
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def type_name(thing: object) -> str:
    """The class's qualified name, with its module but for builtins."""
    return class_name(type(thing))


def class_name(kind: type) -> str:
    module, name = _module_of(kind), _qualname_of(kind)
    return f"{module}.{name}" if isinstance(module, str) and module != "builtins" else str(name)


def is_task(thing: object) -> bool:
    """Without a look at its `__class__`."""
    return issubclass(type(thing), _TASKS)


def task_name(task: Any) -> str:
    kind = _kind_of(task)
    return type_name(task) if kind is None else kind.get_name(task)


def task_coroutine(task: Any) -> Any:
    kind = _kind_of(task)
    return None if kind is None else kind.get_coro(task)


def task_done(task: Any) -> bool:
    kind = _kind_of(task)
    return kind is not None and kind.done(task)


def task_cancelling(task: Any) -> bool:
    """Whether cancel() was called and has not ended it, as far as this Python knows."""
    kind = _kind_of(task)
    counts = kind is not None and hasattr(kind, "cancelling")  # 3.11
    return bool(field(task, "_must_cancel") or (counts and kind.cancelling(task)))


def field(future: Any, name: str) -> Any:
    """A private attribute of a task or future; None for what is neither, or has it not."""
    kind = _kind_of(future) or next((kind for kind in _FUTURES if issubclass(type(future), kind)), None)
    if kind is None:
        return None
    descriptor = getattr(kind, name, None)
    if descriptor is not None:
        return descriptor.__get__(future)
    try:
        return object.__getattribute__(future, name)  # of the classes that are written in Python
    except AttributeError:
        return None


def thread_attribute(thread: threading.Thread | None, name: str) -> Any:
    """ "name", "ident", "native_id" or "daemon"; None of no thread."""
    return None if thread is None else getattr(threading.Thread, name).__get__(thread)


def _kind_of(task: Any) -> Any:
    return next((kind for kind in _TASKS if issubclass(type(task), kind)), None)
