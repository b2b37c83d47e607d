"""Names for things of the program, found without calling any of its code: a __repr__ may do anything."""

from __future__ import annotations

import functools
import os
import stat
import types
from typing import Any

from aioqemu_loop.monitor.standard import class_name, is_task, task_name, type_name

FUNCTIONS: tuple[type, ...] = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
)
COROUTINES: tuple[type, ...] = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)
partial_function = functools.partial.func.__get__
partial_arguments = functools.partial.args.__get__
COMPILED_FUNCTIONS = ("cython_function_or_method", "TaskStepMethWrapper")


def callable_name(function: Any) -> str:
    """What a callback is: "module.Class.method", and for a task's step the name of the task."""
    while issubclass(type(function), functools.partial):
        function = partial_function(function)
    if issubclass(type(function), type):
        return class_name(function)
    if not is_function(function):
        return type_name(function)  # an object that can be called: its attributes may be code
    owner: Any = getattr(function, "__self__", None)
    if is_task(owner):
        return f"step of task {task_name(owner)}"
    if type(function) is types.MethodType:
        function = function.__func__
        if not is_function(function):
            return type_name(function)
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return type_name(function)
    module = getattr(function, "__module__", None)
    if not isinstance(module, str):  # a method of a compiled class
        module = None if owner is None else type(owner).__module__
    return f"{module}.{name}" if module else name


def is_function(thing: object) -> bool:
    """Whether its attributes are just that."""
    return type(thing) in FUNCTIONS or type(thing).__name__ in COMPILED_FUNCTIONS


def is_coroutine(thing: object) -> bool:
    """The same of a coroutine or generator."""
    return type(thing) in COROUTINES or type_name(thing).startswith("_cython_")


def coroutine_name(coroutine: Any) -> str:
    return coroutine.__qualname__ if is_coroutine(coroutine) else type_name(coroutine)


def handle_name(handle: Any) -> str | None:
    """The callback of an asyncio.Handle, a timer, a bottom half or a watched fd; None where it was cancelled."""
    callback = getattr(handle, "_callback", None)
    if callback is None:
        callback = getattr(handle, "callback", None)
    return None if callback is None else callable_name(callback)


def file_name(fd: int) -> str | None:
    """What /proc says that it is: "socket:[4711]", "pipe:[4712]", a path; None where it is closed."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def file_kind(fd: int) -> str | None:
    """ "socket", "pipe", "file", "terminal", "eventfd", "pidfd", ...; None where it is closed."""
    name = file_name(fd)
    if name is None:
        return None
    if name.startswith("anon_inode:"):
        return name.removeprefix("anon_inode:").strip("[]")
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return None
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISCHR(mode):
        return "terminal" if os.isatty(fd) else "device"
    return "file"


def address_name(address: Any) -> str | None:
    """A socket's address as text; None where it has none."""
    if isinstance(address, bytes):  # an abstract Unix address
        address = "@" + address[1:].decode(errors="backslashreplace")
    if isinstance(address, str):
        return address or None
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return None
