"""How programs get the loop: run, new_event_loop, policies, Runner, pytest-asyncio, the environment."""

import asyncio
import errno
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
import warnings

import pytest

import aioqemu_loop
from aioqemu_loop.context import fdmons

from ..conftest import need_fdmon


@pytest.fixture
def clean_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()
        yield
        asyncio.set_event_loop_policy(before)


class TestRun:
    def test_run_returns_the_result_on_the_backend_asked_for(self, fdmon, no_leaks):
        async def main():
            loop = asyncio.get_running_loop()
            await asyncio.sleep(0)
            return type(loop), loop.fdmon, loop.get_debug()

        assert aioqemu_loop.run(main(), fdmon=fdmon) == (aioqemu_loop.Loop, fdmon, False)
        assert aioqemu_loop.run(main(), fdmon=fdmon, debug=True) == (aioqemu_loop.Loop, fdmon, True)

    def test_run_cleans_up_as_asyncio_run_does(self, fdmon, no_leaks):
        events = []

        async def stray():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                events.append("task cancelled")

        async def numbers():
            try:
                yield 1
            finally:
                events.append("generator closed")

        async def main():
            generator = numbers()
            await generator.__anext__()
            task = asyncio.ensure_future(stray())
            await asyncio.sleep(0)
            await asyncio.get_running_loop().run_in_executor(None, print)
            return generator, task

        aioqemu_loop.run(main(), fdmon=fdmon)
        assert sorted(events) == ["generator closed", "task cancelled"]

    def test_run_raises_what_main_raises(self, fdmon, no_leaks):
        async def main():
            raise LookupError("text")

        with pytest.raises(LookupError, match="text"):
            aioqemu_loop.run(main(), fdmon=fdmon)

    def test_run_inside_a_running_loop_is_refused(self, loop):
        async def main():
            coroutine = asyncio.sleep(0)
            text = r"asyncio.run\(\) cannot be called from a running event loop"
            with pytest.raises(RuntimeError, match=text):
                aioqemu_loop.run(coroutine)
            coroutine.close()

        loop.run_until_complete(main())

    def test_run_of_what_is_no_coroutine_is_refused_and_nothing_is_left(self, fdmon, no_leaks):
        with pytest.raises((ValueError, TypeError), match=r"42|coroutine"):  # 3.14 names no value any more
            aioqemu_loop.run(42, fdmon=fdmon)

    def test_signatures_are_the_published_ones(self):
        def names(function):
            return [(p.name, p.kind.name, p.default) for p in inspect.signature(function).parameters.values()]

        assert names(aioqemu_loop.new_event_loop) == [
            ("fdmon", "KEYWORD_ONLY", "auto"),
            ("poll_max_ns", "KEYWORD_ONLY", None),
            ("g_source", "KEYWORD_ONLY", False),
        ]
        assert names(aioqemu_loop.run) == [
            ("main", "POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
            ("fdmon", "KEYWORD_ONLY", "auto"),
            ("poll_max_ns", "KEYWORD_ONLY", None),
            ("debug", "KEYWORD_ONLY", None),
            ("glib", "KEYWORD_ONLY", False),
        ]
        with pytest.raises(TypeError):
            aioqemu_loop.new_event_loop("epoll")

    def test_the_import_string_that_uvicorn_takes(self, no_leaks):
        module, _, name = "aioqemu_loop:new_event_loop".partition(":")
        loop = getattr(importlib.import_module(module), name)()
        assert isinstance(loop, aioqemu_loop.Loop)
        loop.close()

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner came with 3.11")
    def test_a_runner_takes_it_as_loop_factory(self, loop_factory, fdmon, no_leaks):
        async def main():
            return asyncio.get_running_loop().fdmon

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(main()) == fdmon
            assert runner.run(main()) == fdmon
        with asyncio.Runner(loop_factory=aioqemu_loop.new_event_loop) as runner:
            assert isinstance(runner.get_loop(), aioqemu_loop.Loop)


class TestNames:
    @pytest.mark.parametrize("make", [aioqemu_loop.new_event_loop, aioqemu_loop.AioContext])
    def test_a_wrong_name_is_named_and_nothing_is_left(self, make, no_leaks):
        with pytest.raises(ValueError, match="'kqueue'") as info:
            make(fdmon="kqueue")
        assert "io_uring, epoll, poll" in str(info.value)

    @pytest.mark.parametrize("bad", [42, b"epoll", object, ["epoll"]])
    def test_what_is_no_monitor(self, bad, no_leaks):
        with pytest.raises(TypeError, match="fdmon must be"):
            aioqemu_loop.new_event_loop(fdmon=bad)

    @pytest.mark.parametrize("bad, kind", [(-1, ValueError), (1 << 63, ValueError), (1.5, TypeError), ("9", TypeError)])
    def test_a_wrong_poll_max_ns_is_named(self, bad, kind, no_leaks):
        with pytest.raises(kind, match=f"poll_max_ns must be .*{bad}"):
            aioqemu_loop.new_event_loop(poll_max_ns=bad)

    def test_a_failed_loop_does_not_warn_that_it_is_unclosed(self, no_leaks):
        import gc

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError):
                aioqemu_loop.Loop("nonsense")
            gc.collect()

    def test_the_loop_and_its_context_say_which_backend(self, loop, fdmon):
        assert loop.fdmon == loop.context.fdmon == fdmon
        assert isinstance(loop.context, aioqemu_loop.AioContext)

    def test_fdmons_lists_every_backend(self, no_leaks):
        found = aioqemu_loop.fdmons()
        assert list(found) == ["io_uring", "epoll", "poll", "liburing"]
        assert all(reason is None or isinstance(reason, str) for reason in found.values())
        assert found["poll"] is None

    def test_auto_takes_the_first_that_is_usable(self, no_leaks, monkeypatch):
        monkeypatch.delenv("AIOQEMU_FDMON", raising=False)
        first = next(name for name, reason in aioqemu_loop.fdmons().items() if reason is None)
        loop = aioqemu_loop.new_event_loop()
        assert loop.fdmon == first
        loop.close()

    def test_auto_never_takes_liburing_and_the_environment_may(self, no_leaks, monkeypatch):
        need_fdmon("liburing")
        refused = dict.fromkeys(("io_uring", "epoll", "poll"), self.refuse)
        monkeypatch.setattr("aioqemu_loop.context.fdmons.BACKENDS", {**fdmons.BACKENDS, **refused})
        monkeypatch.delenv("AIOQEMU_FDMON", raising=False)
        with pytest.raises(aioqemu_loop.FDMonUnavailable, match="poll: "):
            aioqemu_loop.new_event_loop()
        monkeypatch.setenv("AIOQEMU_FDMON", "liburing")
        loop = aioqemu_loop.new_event_loop()
        assert loop.fdmon == "liburing"
        loop.close()

    @staticmethod
    def refuse():
        raise OSError(errno.EPERM, "refused")


def run_python(code, **env):
    """Run code in a new Python; returns its output."""
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class TestUnavailable:
    # A limit of 3 fds, all taken: no backend but poll could get one, and the context's eventfd cannot either.
    NO_FDS = """
        import resource, aioqemu_loop
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    """

    def test_a_backend_asked_for_by_name_that_cannot_be_had(self):
        code = (
            self.NO_FDS
            + """
        print(aioqemu_loop.fdmons())
        from aioqemu_loop.context.fdmons import make_fdmon
        for name in ("io_uring", "epoll"):
            try:
                make_fdmon(name)
            except aioqemu_loop.FDMonUnavailable as exc:
                print(exc.name, isinstance(exc, RuntimeError), exc.reason in str(exc), "EMFILE" in exc.reason)
        """
        )
        lines = run_python(code).splitlines()
        assert "'poll': None" in lines[0] and "EMFILE" in lines[0]
        assert lines[1:] == ["io_uring True True True", "epoll True True True"]

    def test_a_loop_that_gets_no_fds_raises_and_leaves_python_usable(self):
        code = (
            self.NO_FDS
            + """
        for name in ("io_uring", "epoll", "poll"):
            try:
                aioqemu_loop.new_event_loop(fdmon=name)
            except (OSError, aioqemu_loop.FDMonUnavailable) as exc:
                print(type(exc).__name__)
        """
        )
        assert len(run_python(code).splitlines()) == 3


class TestEnvironment:
    SHOW = "import aioqemu_loop; loop = aioqemu_loop.new_event_loop({}); print(loop.fdmon); loop.close()"

    def test_fdmon_is_the_default(self, fdmon):
        assert run_python(self.SHOW.format(""), AIOQEMU_FDMON=fdmon) == fdmon

    def test_what_the_program_passes_wins(self, fdmon):
        other = "poll" if fdmon != "poll" else "epoll"
        assert run_python(self.SHOW.format(f"fdmon={fdmon!r}"), AIOQEMU_FDMON=other) == fdmon

    def test_empty_means_unset(self):
        assert run_python(self.SHOW.format(""), AIOQEMU_FDMON="", AIOQEMU_POLL_MAX_NS="") != ""

    @pytest.mark.parametrize(
        "name, value",
        [("AIOQEMU_FDMON", "kqueue"), ("AIOQEMU_POLL_MAX_NS", "soon"), ("AIOQEMU_POLL_MAX_NS", "-5")],
    )
    def test_a_wrong_value_is_named_with_its_variable(self, name, value):
        code = """
        import aioqemu_loop
        try:
            aioqemu_loop.new_event_loop()
        except ValueError as exc:
            print(exc)
        """
        text = run_python(code, **{name: value})
        assert name in text and value in text


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="this Python has no policies")
class TestPolicy:
    def test_a_policy_makes_our_loops(self, clean_policy, fdmon, no_leaks):
        asyncio.set_event_loop_policy(aioqemu_loop.EventLoopPolicy(fdmon=fdmon, poll_max_ns=0))
        loop = asyncio.new_event_loop()
        assert isinstance(loop, aioqemu_loop.Loop)
        assert loop.fdmon == fdmon
        loop.close()

        async def main():
            return asyncio.get_running_loop().fdmon

        assert asyncio.run(main()) == fdmon

    def test_it_is_an_asyncio_policy(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.14: for asking asyncio for the class
            assert isinstance(aioqemu_loop.EventLoopPolicy(), asyncio.AbstractEventLoopPolicy)

    def test_install(self, clean_policy, no_leaks):
        if sys.version_info >= (3, 14):
            with pytest.warns(DeprecationWarning, match="loop_factory"):
                aioqemu_loop.install()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                aioqemu_loop.install()
        loop = asyncio.new_event_loop()
        assert isinstance(loop, aioqemu_loop.Loop)
        loop.close()


class TestPytestAsyncio:
    POLICY = """
        import aioqemu_loop, pytest

        @pytest.fixture(scope="session")
        def event_loop_policy():
            return aioqemu_loop.EventLoopPolicy(fdmon={!r})
    """
    FACTORIES = """
        import aioqemu_loop, functools

        def pytest_asyncio_loop_factories(config, item):
            return {{"ours": functools.partial(aioqemu_loop.new_event_loop, fdmon={!r})}}
    """
    TESTS = """
        import asyncio, pytest, pytest_asyncio, aioqemu_loop

        @pytest_asyncio.fixture
        async def server():
            async def echo(reader, writer):
                writer.write(await reader.read(100))
                writer.close()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            yield server.sockets[0].getsockname()
            server.close()
            await server.wait_closed()

        @pytest.mark.asyncio
        async def test_loop():
            loop = asyncio.get_running_loop()
            assert isinstance(loop, aioqemu_loop.Loop)
            assert loop.fdmon == {!r}

        @pytest.mark.asyncio
        @pytest.mark.parametrize("i", range(5))
        async def test_echo(server, i):
            reader, writer = await asyncio.open_connection(*server)
            writer.write(b"hello")
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()

        @pytest.mark.asyncio(loop_scope="module")
        async def test_module_loop():
            assert isinstance(asyncio.get_running_loop(), aioqemu_loop.Loop)
    """

    @pytest.mark.parametrize("how", ["POLICY", "FACTORIES"])
    def test_it_runs_on_our_loop(self, fdmon, tmp_path, how):
        plugin = pytest.importorskip("pytest_asyncio.plugin")
        if how == "FACTORIES" and "pytest_asyncio_loop_factories" not in inspect.getsource(plugin):
            pytest.skip("this pytest-asyncio has no loop factories")
        (tmp_path / "conftest.py").write_text(textwrap.dedent(getattr(self, how).format(fdmon)))
        (tmp_path / "test_it.py").write_text(textwrap.dedent(self.TESTS.format(fdmon)))
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "ignore::pytest.PytestDeprecationWarning", "."],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "7 passed" in result.stdout
