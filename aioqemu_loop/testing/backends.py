"""Which loop async tests get, and on how many backends each runs.

- asyncio's policy is ours for the session: that is the loop of everything that asks for none in particular.
- A pytest-asyncio with loop factories (1.4) is given ours, and repeats its tests itself.
- Else a session-scoped fixture, `aioqemu_fdmon`, is parametrized, and what decides on loops is made to depend on it:
  the fixture `event_loop_policy` of older pytest-asyncio, and `anyio_backend` of anyio. So loops and async fixtures
  of any scope are made anew for each backend.
- pytest does not parametrize unittest's classes: there is one subclass per backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
import unittest
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import pytest

from aioqemu_loop._version import __version__
from aioqemu_loop.loop.loop import Loop
from aioqemu_loop.policy import HAS_POLICIES, EventLoopPolicy, new_event_loop

FIXTURE = "aioqemu_fdmon"


def factory_for(fdmon: str) -> Callable[[], Loop]:
    return functools.partial(new_event_loop, fdmon=fdmon)


@contextlib.contextmanager
def policy_for(fdmon: str) -> Iterator[None]:
    """asyncio's default loop is ours meanwhile."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(EventLoopPolicy(fdmon=fdmon))
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(before)


class Backends:
    """`names`: backends, the first of which is that of tests that are not repeated."""

    def __init__(self, config: pytest.Config, names: tuple[str, ...]) -> None:
        self.names = names
        self.repeats = len(names) > 1
        # pytest keeps a fixture, and with it a loop, from one test to the next if its parameter is the same object.
        self.factories = {name: factory_for(name) for name in names}
        self.has_factories = hasattr(config.hook, "pytest_asyncio_loop_factories")
        self.backend_fixture: pytest.FixtureDef[Any] | None = None  # `aioqemu_fdmon` while it has a value
        self.exit_stack = contextlib.ExitStack()
        if HAS_POLICIES:
            self.exit_stack.enter_context(policy_for(names[0]))

    def pytest_unconfigure(self) -> None:
        self.exit_stack.close()

    def pytest_report_header(self) -> str:
        return f"aioqemu_loop {__version__}: async tests on {', '.join(self.names)}"

    # -- pytest-asyncio from 1.4 on --

    @pytest.hookimpl(optionalhook=True, wrapper=True)
    def pytest_asyncio_loop_factories(self, item: pytest.Item) -> Generator[None, Any, Mapping[str, Any]]:
        theirs = yield
        marker = item.get_closest_marker("asyncio")
        if theirs and marker is not None and marker.kwargs.get("loop_factories"):
            return theirs  # type: ignore[no-any-return] # the test asks for certain ones by name
        return self.factories

    # -- what has no loop factories --

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if self.repeats and (self._is_anyio(metafunc) or (self._is_asyncio(metafunc) and not self.has_factories)):
            if FIXTURE not in metafunc.fixturenames:
                metafunc.fixturenames.append(FIXTURE)
            metafunc.parametrize(FIXTURE, self.names, ids=self.names, indirect=True, scope="session")

    @staticmethod
    def _is_anyio(metafunc: pytest.Metafunc) -> bool:
        return "anyio_backend" in metafunc.fixturenames

    @staticmethod
    def _is_asyncio(metafunc: pytest.Metafunc) -> bool:
        """Whether pytest-asyncio runs it."""
        config = metafunc.config
        if not config.pluginmanager.has_plugin("asyncio"):
            return False
        if "event_loop" in metafunc.fixturenames:  # before 1.0
            return True
        hypothesis = getattr(metafunc.function, "hypothesis", None)
        if not inspect.iscoroutinefunction(getattr(hypothesis, "inner_test", metafunc.function)):
            return False
        if metafunc.definition.get_closest_marker("asyncio") is not None:
            return True
        mode: str = config.getoption("asyncio_mode") or config.getini("asyncio_mode")
        return mode == "auto"

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if not self.has_factories:
            for fixture in _fixtures(items, "event_loop_policy"):
                _replace(fixture, lambda aioqemu_fdmon: EventLoopPolicy(fdmon=aioqemu_fdmon))
        if not self.repeats:
            return
        for fixture in _fixtures(items, "anyio_backend"):
            _extend(fixture, _anyio_backend_on)
        for item in items:
            # Before all fixtures that are kept from the test before, which may have run on another backend.
            if isinstance(item, pytest.Function) and FIXTURE in _params(item) and item.fixturenames[0] != FIXTURE:
                item.fixturenames.insert(0, FIXTURE)
        again = [item for item in items if self._is_repeated_for_nothing(item)]
        if again:
            config.hook.pytest_deselected(items=again)
            items[:] = [item for item in items if item not in again]

    def _is_repeated_for_nothing(self, item: pytest.Item) -> bool:
        """What anyio runs on Trio is run once."""
        params = _params(item)
        backend = params.get("anyio_backend", "asyncio")
        name = backend if isinstance(backend, str) else backend[0]
        return name != "asyncio" and params.get(FIXTURE, self.names[0]) != self.names[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
        """Async fixtures depend on a loop, and pytest does not know of that: they end before their loop does."""
        is_async = _is_async(fixturedef.func)
        value = yield
        if fixturedef.argname == FIXTURE:
            self.backend_fixture = fixturedef
            fixturedef.addfinalizer(functools.partial(setattr, self, "backend_fixture", None))
        elif is_async and self.backend_fixture is not None and self._repeats_by_fixture(request):
            self.backend_fixture.addfinalizer(functools.partial(fixturedef.finish, request=request))
        return value

    def _repeats_by_fixture(self, request: pytest.FixtureRequest) -> bool:
        return not self.has_factories or "anyio_backend" in request.fixturenames

    # -- unittest --

    @pytest.hookimpl(wrapper=True)
    def pytest_pycollect_makeitem(self, obj: object) -> Generator[None, Any, Any]:
        found = yield
        if not self.repeats or not isinstance(obj, type) or not issubclass(obj, unittest.IsolatedAsyncioTestCase):
            return found
        if getattr(obj, "loop_factory", None) is not None:  # it asks for a certain one
            return found
        nodes = found if isinstance(found, list) else [found]
        return [_class_on(node, obj, name) for name in self.names for node in nodes if isinstance(node, pytest.Class)]


def _params(item: pytest.Item) -> dict[str, Any]:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return params


def _is_async(function: Callable[..., Any]) -> bool:
    function = inspect.unwrap(function)  # pytest-asyncio wraps them
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _fixtures(items: list[pytest.Item], name: str) -> set[Any]:
    """The definitions of a fixture that these tests use."""
    infos = [item._fixtureinfo for item in items if isinstance(item, pytest.Function)]
    return {fixture for info in infos for fixture in info.name2fixturedefs.get(name, ())}


def _replace(fixture: Any, function: Callable[..., object]) -> None:
    """Make a fixture another one, that is given `aioqemu_fdmon`."""
    fixture.func = function
    fixture.argnames = (FIXTURE,)


def _extend(fixture: Any, change: Callable[[Any, str], object]) -> None:
    """Make a fixture depend on `aioqemu_fdmon`: its value becomes change(value, fdmon)."""
    original = fixture.func
    if FIXTURE in fixture.argnames:
        return

    if inspect.isgeneratorfunction(original):

        def function(*args: Any, aioqemu_fdmon: str, **kwargs: Any) -> Any:
            with contextlib.contextmanager(original)(*args, **kwargs) as value:
                yield change(value, aioqemu_fdmon)

    else:

        def function(*args: Any, aioqemu_fdmon: str, **kwargs: Any) -> Any:
            return change(original(*args, **kwargs), aioqemu_fdmon)

    fixture.func = function
    fixture.argnames = (*fixture.argnames, FIXTURE)


def _anyio_backend_on(backend: Any, fdmon: str) -> object:
    """anyio's backend, with our loop where it is asyncio and says nothing about the loop."""
    name, options = (backend, {}) if isinstance(backend, str) else backend
    if name != "asyncio" or options.get("use_uvloop") or options.get("loop_factory"):
        return backend
    return name, {**options, "loop_factory": factory_for(fdmon)}


def _class_on(node: pytest.Class, base: type, fdmon: str) -> pytest.Class:
    """A copy of the collected class that runs on one backend."""
    names: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    if sys.version_info >= (3, 13):
        names["loop_factory"] = staticmethod(factory_for(fdmon))
    else:

        def run(self: Any, result: Any = None) -> Any:
            with policy_for(fdmon):
                return base.run(self, result)  # type: ignore[attr-defined]

        names["run"] = run
    copy = type(node).from_parent(node.parent, name=f"{node.name}[{fdmon}]")
    copy.obj = type(base.__name__, (base,), names)
    copy.own_markers.extend(node.own_markers)
    copy.keywords.update({mark.name: mark for mark in node.own_markers})
    return copy
