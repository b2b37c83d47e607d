"""Compiled objects that no __init__ has seen, used in every way: python -m tests.project.half_made [PACKAGE ...]

Each class is tried in a fork of its own. Any exception may come of a call; a fork that is killed by a signal, or has
lost a file descriptor that nobody passed to the object, is a failure, told with the call that was its last.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import inspect
import logging
import mmap
import os
import pkgutil
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import aioqemu_loop

PACKAGES = ("system", "uring", "fdmon", "context", "transports", "loop", "glib", "files")
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
LAST_WORDS = 300  # bytes
PATIENCE = 0.002  # seconds that a call may block
PLAIN: tuple[Any, ...] = (None, 0, b"", "", object())
SPECIAL = ("__init__", "__repr__", "__str__", "__hash__", "__bool__", "__len__", "__iter__", "__next__", "__call__")
SPECIAL += ("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__enter__", "__exit__", "__reduce_ex__", "__sizeof__")
SPECIAL += ("__await__", "__aenter__", "__aexit__", "__setattr__", "__delattr__", "__del__", "__getitem__")
# What calls it with arguments, these: too many to try all.
FEW = [(), *((one,) for one in PLAIN), *((one, two) for one in PLAIN for two in (None, 0, PLAIN[-1]))]
FEW += [(one,) * count for one in (None, PLAIN[-1]) for count in range(3, 8)]

words = mmap.mmap(-1, LAST_WORDS)  # of the fork


def compiled_modules(package: str) -> list[ModuleType]:
    root = importlib.import_module(f"aioqemu_loop.{package}")
    names = [found.name for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")]
    modules = [importlib.import_module(name) for name in names]
    return [module for module in modules if str(module.__file__).endswith(".so")]


def compiled_classes(package: str) -> list[type]:
    classes = [cls for module in compiled_modules(package) for cls in vars(module).values() if isinstance(cls, type)]
    own = [cls for cls in classes if cls.__module__.startswith(f"aioqemu_loop.{package}.")]
    return list(dict.fromkeys(cls for cls in own if not cls.__flags__ & HEAP_TYPE))


def compiled_functions(package: str) -> list[Callable[..., Any]]:
    functions = [each for module in compiled_modules(package) for each in vars(module).values()]
    return [each for each in functions if inspect.isroutine(each) and each.__module__.startswith("aioqemu_loop.")]


def makers_of(cls: type) -> list[Callable[[], Any]]:
    """How to make an object of the class and one of a subclass, where they may be had."""
    makers: list[Callable[[], Any]] = []
    with contextlib.suppress(TypeError):
        cls.__new__(cls)
        makers.append(lambda: cls.__new__(cls))
    with contextlib.suppress(TypeError):
        derived = type("Derived", (cls,), {})
        derived.__new__(derived)
        makers.append(lambda: derived.__new__(derived))
    return makers


def attempt(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """The call's result, or None where it raised or blocked."""
    told = f"{what}({', '.join([type(arg).__name__ for arg in args])})"
    words[:] = told.encode()[:LAST_WORDS].ljust(LAST_WORDS)
    try:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            result = function(*args)
            if asyncio.iscoroutine(result):
                result.close()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except BaseException:
        return None
    return result


def use(cls: type, subject: Any, name: str, arguments: list[tuple[Any, ...]]) -> None:
    """Read one attribute, and call it; then, set and delete it."""
    told = f"{cls.__name__}.{name}"
    value = attempt(f"reading {told}", getattr, subject, name)
    if callable(value):
        for args in arguments:
            attempt(told, value, *args)
    elif len(arguments) > 1:
        for one in PLAIN:
            attempt(f"setting {told}", setattr, subject, name, one)
        attempt(f"deleting {told}", delattr, subject, name)
    attempt(f"repr() of {cls.__name__} after {told}", repr, subject)


def standard_files() -> list[str]:
    return [
        os.readlink(f"/proc/self/fd/{number}") if os.path.exists(f"/proc/self/fd/{number}") else ""
        for number in range(3)
    ]


def try_subject(cls: type, make: Callable[[], Any]) -> None:
    others = half_made_objects() if type(make()) is cls else []
    names = [name for name in dir(cls) if not name.startswith("__") or name in SPECIAL]
    own = standard_files()
    for name in names:
        use(cls, make(), name, [()])
        gc.collect(0)
        if standard_files() != own:
            attempt(f"closing of an fd by {cls.__name__}.{name}", os.abort)
    subject = make()
    for name in names:  # each by what the others have left
        use(cls, subject, name, FEW[:6])
    for name in names:
        use(cls, make(), name, FEW if name in SPECIAL else FEW + with_each(others))


def try_strangers(cls: type) -> None:
    """What the class has, called through it with objects that are not of it, as in Loop.time(object())."""
    for name in vars(cls):
        member = getattr(cls, name)
        for stranger in (*PLAIN, cls, *half_made_objects()):
            if isinstance(stranger, cls):
                continue
            attempt(f"reading {cls.__name__}.{name} of", getattr(member, "__get__", None), stranger)
            attempt(f"setting {cls.__name__}.{name} of", getattr(member, "__set__", None), stranger, None)
            for count in range(3) if callable(member) else ():
                attempt(f"{cls.__name__}.{name}", member, stranger, *[None] * count)


def with_each(others: list[Any]) -> list[tuple[Any, ...]]:
    return [args for other in others for args in ((other,), (other, None), (None, other), (other, 0))]


def out_of_patience(*_: Any) -> None:
    raise TimeoutError


def in_fork(function: Callable[..., None], *args: Any) -> str | None:
    """What killed it."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, out_of_patience)
        warnings.simplefilter("ignore")
        logging.disable()
        faulthandler.disable()  # in the tests of this very file
        sys.unraisablehook = lambda _: None
        with socket.socket() as sock, open(os.devnull, "w") as null:
            os.dup2(sock.fileno(), 0)
            os.dup2(null.fileno(), 1)
            function(*args)
        attempt("the end", gc.collect)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return None
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return f"{how} at {words[:].decode().strip()}"


def half_made_objects() -> list[Any]:
    """One of each class of all packages."""
    return [make() for package in PACKAGES for cls in compiled_classes(package) for make in makers_of(cls)[:1]]


def try_functions(package: str) -> None:
    for function in compiled_functions(package):
        for args in FEW + with_each(half_made_objects()):
            attempt(f"{function.__module__}.{function.__name__}", function, *args)


def live_loop() -> aioqemu_loop.Loop:
    asyncio._set_running_loop(None)  # type: ignore[attr-defined]  # what _run_forever_setup() (3.13) has left
    loop = aioqemu_loop.new_event_loop()
    loop.call_soon(loop.stop)
    loop.run_forever()
    return loop


def try_package(package: str) -> list[str]:
    """What went wrong."""
    subjects = [(cls, make) for cls in compiled_classes(package) for make in makers_of(cls)]
    if package == "loop":
        subjects += [(aioqemu_loop.Loop, lambda: aioqemu_loop.Loop.__new__(aioqemu_loop.Loop))]
        subjects += [(aioqemu_loop.Loop, live_loop)]
    failures = {f"{cls.__module__}.{cls.__name__}": in_fork(try_subject, cls, make) for cls, make in subjects}
    classes = compiled_classes(package)
    failures |= {f"{cls.__name__} of others": in_fork(try_strangers, cls) for cls in classes}
    failures[f"functions of {package}"] = in_fork(try_functions, package)
    return [f"{what}: {failure}" for what, failure in failures.items() if failure]


if __name__ == "__main__":
    failed = [failure for package in sys.argv[1:] or PACKAGES for failure in try_package(package)]
    print(*failed, sep="\n")
    sys.exit(len(failed) > 0)
