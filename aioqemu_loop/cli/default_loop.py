"""Making this loop the one that asyncio makes by default, in this process and in those that multiprocessing starts."""

from __future__ import annotations

import asyncio
import functools
import importlib.abc
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from aioqemu_loop import policy
from aioqemu_loop.loop.loop import Loop

# In a child that was not forked, before its sys.path is what its parent's was.
IN_CHILD = """
import sys
sys.path.append({root!r})
from aioqemu_loop.cli.default_loop import install
install()
"""


def install() -> None:
    if policy.HAS_POLICIES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.14 on; the program has not done this
            asyncio.set_event_loop_policy(policy.EventLoopPolicy())
    else:  # what asyncio.Runner calls
        asyncio.events.new_event_loop = asyncio.new_event_loop = policy.new_event_loop
    actions = {"multiprocessing.spawn": _carry_to_children, "uvicorn.config": _be_default_of_uvicorn}
    for name in list(actions):
        if name in sys.modules:
            actions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, AfterImport(actions))


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls actions[name](module) when that module has been imported, once."""

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        action = self._actions.pop(fullname, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(fullname)  # comes past here again, and finds no action
        loader: Any = None if spec is None else spec.loader
        if loader is None or isinstance(loader, type):  # a frozen module's is shared by all of these
            return spec
        exec_module = loader.exec_module

        def exec_and_act(module: ModuleType) -> None:
            exec_module(module)
            action(module)

        loader.exec_module = exec_and_act
        return spec


class InChild:
    """What makes a process that unpickles it call install()."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        return exec, (IN_CHILD.format(root=root),)


def _carry_to_children(spawn: Any) -> None:
    """Methods spawn and forkserver send this dict to a child, which takes from it what it knows."""
    original = spawn.get_preparation_data

    @functools.wraps(original)
    def get_preparation_data(name: str) -> dict[str, object]:
        return {**original(name), "aioqemu_loop": InChild()}

    spawn.get_preparation_data = get_preparation_data


def _be_default_of_uvicorn(config: Any) -> None:
    """uvicorn asks for a certain loop also where its user did not: uvloop, else asyncio's own. --loop still decides."""
    for name in ("LOOP_FACTORIES", "LOOP_SETUPS"):  # from 0.36 on; before
        if "auto" in getattr(config, name, ()):
            getattr(config, name)["auto"] = f"{__name__}:uvicorn_auto"


def uvicorn_auto(use_subprocess: bool = False) -> Callable[[], Loop]:
    """What uvicorn calls for its loop `auto`."""
    return policy.new_event_loop
