"""Async tests run on this loop, and on each backend that is asked for, under every plugin that runs async tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aioqemu_loop

from .conftest import ROOT, old_versions

pytest_plugins = ["pytester"]

ALL = "--aioqemu-fdmon=io_uring,epoll,poll"
NAMES = ("io_uring", "epoll", "poll")

# Fixtures of each scope are on the loop of their test, and the test's id names its backend.
ASYNCIO = """
import asyncio, pytest, pytest_asyncio, aioqemu_loop

OLD = tuple(map(int, pytest_asyncio.__version__.split(".")[:2])) < (0, 24)
SCOPE = {"scope": "module"} if OLD else {"loop_scope": "module"}
events = []

def check(request):
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioqemu_loop.Loop)
    assert loop.fdmon in request.node.name
    return loop

@pytest_asyncio.fixture
async def loop_of_fixture():
    yield asyncio.get_running_loop()

@pytest_asyncio.fixture(scope="module", **({} if OLD else {"loop_scope": "module"}))
async def loop_of_module():
    loop = asyncio.get_running_loop()
    events.append(f"{loop.fdmon} begins")
    yield loop
    assert asyncio.get_running_loop() is loop
    events.append(f"{loop.fdmon} ends")

@pytest.mark.asyncio
@pytest.mark.parametrize("i", [1, 2])
async def test_function(request, loop_of_fixture, i):
    assert check(request) is loop_of_fixture

@pytest.mark.asyncio(**SCOPE)
async def test_module(request, loop_of_module):
    assert check(request) is loop_of_module

@pytest.mark.asyncio(**SCOPE)
async def test_module_again(request, loop_of_module):
    assert check(request) is loop_of_module

def test_sync():
    async def main():
        return asyncio.get_running_loop().fdmon
    assert asyncio.run(main()) == "io_uring"

def teardown_module():
    print("events:", *events, sep="|")
"""


def outcomes(result: pytest.RunResult) -> dict[str, str]:
    """Test id -> PASSED or the like."""
    return dict(re.findall(r"^test_it.py::(\S+) (?:<- \S+ )?([A-Z]+)", result.stdout.str(), re.MULTILINE))


def test_two_hundred_tests_on_three_backends(suite):
    text = """
        import asyncio, pytest

        @pytest.mark.asyncio
        @pytest.mark.parametrize("i", range(200))
        async def test_one(request, i):
            assert asyncio.get_running_loop().fdmon in request.node.name
            reader = asyncio.StreamReader()
            asyncio.get_running_loop().call_later(0.0001, reader.feed_eof)
            assert await reader.read() == b""
    """
    result = suite(text, ALL)
    result.assert_outcomes(passed=600)
    ids = outcomes(result)
    assert set(ids.values()) == {"PASSED"}
    expected = {f"test_one[{name}-{i}]" for name in NAMES for i in range(200)}
    assert set(ids) == expected


@pytest.mark.parametrize("folder", [None, *old_versions()], ids=lambda folder: folder.name if folder else "installed")
def test_pytest_asyncio(suite, folder):
    if folder is not None and sys.version_info >= (3, 14):
        pytest.skip("older than this Python")
    result = suite(ASYNCIO, ALL, "-s", folder=folder)
    result.assert_outcomes(passed=4 * 3 + 1)
    ids = {
        name.partition("[")[0] + name.partition("[")[2].partition("]")[0].partition("-")[0] for name in outcomes(result)
    }
    assert ids == {
        f"{test}{name}" for test in ("test_function", "test_module", "test_module_again") for name in NAMES
    } | {"test_sync"}
    if folder is not None:  # loops are made once for each backend; newer pytest-asyncios order tests by function
        assert sorted(re.findall(r"(\w+) begins", result.stdout.str())) == sorted(NAMES)
    if folder is not None:
        assert f"asyncio-{folder.name.removeprefix('pytest-asyncio-')}" in result.stdout.str()


@pytest.mark.parametrize("folder", [None, *old_versions()], ids=lambda folder: folder.name if folder else "installed")
def test_a_plain_test_with_an_async_fixture(suite, folder):
    if folder is not None and sys.version_info >= (3, 14):
        pytest.skip("older than this Python")
    text = """
        import asyncio, pytest_asyncio

        @pytest_asyncio.fixture
        async def fdmon():
            return asyncio.get_running_loop().fdmon

        def test_plain(request, fdmon):
            assert fdmon == "epoll" or fdmon in request.node.name
    """
    result = suite(text, "--aioqemu-fdmon=epoll,poll", folder=folder)
    repeated = folder is not None and folder.name.startswith(
        "pytest-asyncio-0."
    )  # such a test has the fixture event_loop
    names = ["test_plain[epoll]", "test_plain[poll]"] if repeated else ["test_plain"]
    assert outcomes(result) == dict.fromkeys(names, "PASSED")


def test_on_one_backend_ids_stay_as_they_are(suite):
    text = ASYNCIO.replace("assert loop.fdmon in request.node.name", "assert loop.fdmon == 'io_uring'")
    for options in (["--aioqemu"], ["--aioqemu-fdmon=io_uring"]):
        result = suite(text, *options)
        result.assert_outcomes(passed=5)
        assert set(outcomes(result)) == {
            "test_function[1]",
            "test_function[2]",
            "test_module",
            "test_module_again",
            "test_sync",
        }
        assert f"aioqemu_loop {aioqemu_loop.__version__}: async tests on" in result.stdout.str()


def test_auto_mode_and_the_ini_file(suite):
    text = """
        import asyncio

        async def test_auto(request):
            assert asyncio.get_running_loop().fdmon in request.node.name
    """
    result = suite(text, "--asyncio-mode=auto", ini="aioqemu_fdmon = epoll, poll\n")
    assert outcomes(result) == {"test_auto[epoll]": "PASSED", "test_auto[poll]": "PASSED"}


class TestWhatTheSuiteAsksFor:
    TEXT = """
        import asyncio, pytest

        @pytest.mark.asyncio
        async def test_any():
            assert getattr(asyncio.get_running_loop(), "fdmon", None) == "epoll"
    """
    NAMED = """
        @pytest.mark.asyncio(loop_factories=["plain"])
        async def test_named():
            assert type(asyncio.get_running_loop()) is asyncio.SelectorEventLoop
    """
    FACTORIES = """
        import asyncio

        def pytest_asyncio_loop_factories():
            return {"plain": asyncio.SelectorEventLoop, "other": asyncio.SelectorEventLoop}
    """
    POLICY = """
        import asyncio, pytest

        @pytest.fixture(scope="session", params=[1, 2])
        def event_loop_policy():
            return asyncio.DefaultEventLoopPolicy()
    """

    def test_the_option_wins_over_factories_but_for_a_test_that_names_one(self, suite):
        import inspect

        import pytest_asyncio.plugin

        if "loop_factories" not in inspect.getsource(pytest_asyncio.plugin):
            pytest.skip("this pytest-asyncio has no loop factories")
        result = suite(self.TEXT + self.NAMED, "--aioqemu-fdmon=epoll", conftest=self.FACTORIES)
        assert outcomes(result) == {"test_any": "PASSED", "test_named": "PASSED"}

    @pytest.mark.parametrize("folder", old_versions(), ids=lambda folder: folder.name)
    def test_the_option_wins_over_a_policy(self, suite, folder):
        if sys.version_info >= (3, 14):
            pytest.skip("older than this Python")
        result = suite(self.TEXT, "--aioqemu-fdmon=epoll", conftest=self.POLICY, folder=folder)
        assert outcomes(result) == {"test_any[1]": "PASSED", "test_any[2]": "PASSED"}


ANYIO = """
import asyncio, pytest, aioqemu_loop

pytestmark = pytest.mark.anyio
events = []

@pytest.fixture
async def loop_of_fixture():
    return asyncio.get_running_loop()

@pytest.fixture(scope="module")
async def loop_of_module():
    loop = asyncio.get_running_loop()
    events.append(loop.fdmon)
    yield loop
    assert asyncio.get_running_loop() is loop

async def test_one(request, loop_of_fixture, loop_of_module):
    loop = asyncio.get_running_loop()
    assert isinstance(loop, aioqemu_loop.Loop)
    assert loop.fdmon in request.node.name
    assert loop is loop_of_fixture is loop_of_module

async def test_two(request, loop_of_module):
    assert asyncio.get_running_loop() is loop_of_module
    assert loop_of_module.fdmon in request.node.name

def test_sync():
    assert sorted(events) == ["epoll", "io_uring", "poll"]
"""


class TestAnyio:
    BACKENDS = {
        "default": "",
        "fixture": "import pytest\n@pytest.fixture(scope='module')\ndef anyio_backend():\n    return 'asyncio'\n",
        "generator": "import pytest\n@pytest.fixture(scope='module')\ndef anyio_backend():\n    yield 'asyncio', {}\n",
    }

    @pytest.fixture(autouse=True)
    def needs_anyio(self):
        pytest.importorskip("anyio.pytest_plugin")

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_on_each_backend(self, suite, backend):
        result = suite(ANYIO, ALL, conftest=self.BACKENDS[backend])
        result.assert_outcomes(passed=7)
        assert {name for name in NAMES for test in outcomes(result) if f"test_one[{name}" in test} == set(NAMES)

    def test_on_one(self, suite):
        text = ANYIO.replace("loop.fdmon in request.node.name", "loop.fdmon == 'poll'")
        text = text.replace("loop_of_module.fdmon in request.node.name", "True").split("def test_sync")[0]
        suite(text, "--aioqemu-fdmon=poll").assert_outcomes(passed=2)

    def test_trio_is_run_once_and_what_asks_for_a_certain_loop_keeps_it(self, suite):
        conftest = """
            import asyncio, pytest

            PLAIN = ("asyncio", {"loop_factory": asyncio.SelectorEventLoop})

            @pytest.fixture(params=["asyncio", PLAIN, "trio"], ids=["asyncio", "plain", "trio"])
            def anyio_backend(request):
                return request.param
        """
        text = """
            import asyncio, pytest

            @pytest.mark.anyio
            async def test_it(request):
                ours = hasattr(asyncio.get_running_loop(), "fdmon")
                assert ours == ("plain" not in request.node.name)
        """
        result = suite(text, ALL, "--collect-only", "-q", conftest=conftest)
        assert result.stdout.str().count("trio]") == 1
        result = suite(text, ALL, "-k", "not trio", conftest=conftest)
        result.assert_outcomes(passed=6, deselected=3)


def test_unittest(suite):
    text = """
        import asyncio, pytest, unittest

        @pytest.mark.filterwarnings("default")
        class TestIt(unittest.IsolatedAsyncioTestCase):
            @classmethod
            def setUpClass(cls):
                cls.made = cls.__name__

            async def asyncSetUp(self):
                self.loop = asyncio.get_running_loop()

            async def test_one(self):
                self.assertIs(self.loop, asyncio.get_running_loop())
                print("loop:", self.loop.fdmon, self.made)

        class TestOwn(unittest.IsolatedAsyncioTestCase):
            loop_factory = asyncio.SelectorEventLoop

            async def test_two(self):
                pass
    """
    result = suite(text, ALL, "-s")
    result.assert_outcomes(passed=4)
    assert re.findall(r"loop: (\w+) TestIt", result.stdout.str()) == list(NAMES)
    for name in NAMES:
        result.stdout.fnmatch_lines([f"test_it.py::TestIt[[]{name}[]]::test_one *"])
    result = suite(text, "--aioqemu-fdmon=epoll", "-s")
    result.assert_outcomes(passed=2)
    assert "loop: epoll" in result.stdout.str() and "TestIt::test_one" in result.stdout.str()


def test_hypothesis(suite):
    text = """
        import asyncio, pytest
        from hypothesis import given, settings, strategies

        @pytest.mark.asyncio
        @settings(max_examples=5, database=None)
        @given(number=strategies.integers())
        async def test_it(number):
            assert asyncio.get_running_loop().fdmon in ("epoll", "poll")
    """
    result = suite(text, "--aioqemu-fdmon=epoll,poll", needs=("hypothesispytest",))
    assert set(outcomes(result)) == {"test_it[epoll]", "test_it[poll]"}
    result.assert_outcomes(passed=2)


def test_without_pytest_asyncio(suite):
    """Its marks mean nothing then; what else runs async tests is repeated."""
    text = """
        import pytest, unittest

        @pytest.mark.asyncio
        async def test_asyncio():
            pass

        @pytest.mark.anyio
        async def test_anyio(anyio_backend_name):
            pass

        class TestIt(unittest.IsolatedAsyncioTestCase):
            async def test_unittest(self):
                pass
    """
    result = suite(text, ALL, "-p", "no:asyncio", "-k", "not trio", ini="markers = asyncio", apart=True)
    result.assert_outcomes(passed=6, failed=1)


def test_xdist(suite):
    pytest.importorskip("xdist")
    result = suite(ASYNCIO, ALL, "-n", "2", "--dist", "loadfile", apart=True, needs=("xdist",))
    result.assert_outcomes(passed=13)


class TestRefused:
    def test_a_name_that_is_none(self, suite):
        result = suite("def test(): pass", "--aioqemu-fdmon=epoll,kqueue")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: --aioqemu-fdmon: 'kqueue' is none of auto, io_uring, epoll, *"])

    def test_no_name(self, suite):
        assert suite("def test(): pass", "--aioqemu-fdmon=,").ret == pytest.ExitCode.USAGE_ERROR

    def test_a_backend_that_cannot_be_had(self, suite, monkeypatch):
        import errno

        from aioqemu_loop.context import fdmons

        def refuse():
            raise OSError(errno.EPERM, "refused")

        monkeypatch.setitem(fdmons.BACKENDS, "io_uring", refuse)
        result = suite("def test(): pass", ALL)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["ERROR: --aioqemu-fdmon: fd monitor 'io_uring' is not available: denied by *EPERM*"]
        )


class TestWithoutOptions:
    def test_nothing_changes_and_nothing_is_imported(self, suite):
        text = """
            import asyncio, sys, pytest

            def test_modules():
                assert not [name for name in sys.modules if name.startswith("aioqemu_loop.testing")]

            @pytest.mark.asyncio
            @pytest.mark.aioqemu_leaks
            async def test_loop():
                assert isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
        """
        result = suite(text, "--strict-markers", apart=True)
        assert set(outcomes(result)) == {"test_modules", "test_loop"}
        result.assert_outcomes(passed=2)

    def test_what_every_run_imports_is_small(self):
        code = (
            "import sys; before = set(sys.modules); import pytest_aioqemu_loop;print(sorted(set(sys.modules) - before))"
        )
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert not set(eval(result.stdout)) & {"aioqemu_loop", "asyncio", "pytest"}

    def test_the_entry_point_has_the_documented_name(self, pytester, monkeypatch):
        # As an installed distribution would have it.
        information = Path(pytester.path) / "site" / "thing-1.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
        lines = (ROOT / "pyproject.toml").read_text().partition("[project.entry-points.pytest11]\n")[2]
        name, _, module = lines.partition("\n")[0].replace('"', "").partition(" = ")
        (information / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
        monkeypatch.setenv("PYTHONPATH", f"{information.parent}:{ROOT}")
        pytester.makepyfile("def test_it(request): assert request.config.getoption('aioqemu')")
        for options in ([], ["-p", "aioqemu_loop.pytest_plugin"]):
            pytester.runpytest_subprocess(
                "--aioqemu", "-p", "no:hypothesispytest", *options, timeout=50
            ).assert_outcomes(passed=1)
