"""--aioqemu-leaks: tests that leave something behind fail, and no others."""

from __future__ import annotations

import re
import sys

import pytest

from .conftest import old_versions

pytest_plugins = ["pytester"]


def blamed(result: pytest.RunResult) -> dict[str, list[str]]:
    """Test -> what it left behind."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in result.stdout.lines:
        header = re.match(r"_+ ERROR at teardown of (\S+) _+", line)
        if "short test summary info" in line:  # which in CI repeats all of it
            break
        if header:
            name = header[1]
        elif " left behind: " in line:
            found.setdefault(name, []).append(line)
    return found


LEAKS = """
import asyncio, os, socket, threading
import pytest, pytest_asyncio

kept = []
end = threading.Event()

def teardown_module():
    end.set()

@pytest.mark.asyncio
async def test_fd():
    kept.append(os.pipe())

@pytest.mark.asyncio
async def test_socket():
    kept.append(socket.create_server(("127.0.0.1", 0)))

@pytest.mark.asyncio
async def test_thread():
    threading.Thread(target=end.wait, name="the one that waits").start()

@pytest.mark.asyncio
async def test_task():
    async def lingers():
        await asyncio.sleep(60)
    kept.append(asyncio.create_task(lingers(), name="the one that lingers"))

def test_sync():
    kept.append(os.pipe())

@pytest.fixture
def careless():
    kept.append(os.pipe())

def test_with_a_careless_fixture(careless):
    pass
"""

CLEAN = """
import asyncio, gc, os, signal, socket, sys, threading
import pytest, pytest_asyncio

OLD = tuple(map(int, pytest_asyncio.__version__.split(".")[:2])) < (0, 24)
SCOPE = {"scope": "module"} if OLD else {"loop_scope": "module"}
opened = os.pipe()

@pytest.fixture(scope="module", autouse=True)
def of_module():
    sock = socket.create_server(("127.0.0.1", 0))
    yield
    sock.close()

@pytest_asyncio.fixture(scope="module", **({} if OLD else {"loop_scope": "module"}))
async def background():
    task = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    yield
    task.cancel()

@pytest_asyncio.fixture
async def server():
    async def echo(reader, writer):
        writer.write(await reader.read(100))
        await reader.read()
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()

@pytest.mark.asyncio
async def test_client(server):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(b"x")
    assert await reader.read(1) == b"x"
    writer.close()
    await writer.wait_closed()

@pytest.mark.asyncio(**SCOPE)
async def test_on_the_module_s_loop(background):
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, os.getpid)
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.remove_signal_handler(signal.SIGUSR1)
    child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "pass")
    await child.wait()

@pytest.mark.asyncio(**SCOPE)
async def test_again_on_the_module_s_loop(background):
    await asyncio.get_running_loop().run_in_executor(None, os.getpid)

@pytest.mark.asyncio
async def test_what_is_about_to_end():
    async def main():
        await asyncio.sleep(60)
    task = asyncio.ensure_future(main())
    await asyncio.sleep(0)
    task.cancel()
    asyncio.ensure_future(asyncio.sleep(0))
    threading.Thread(target=asyncio.run, args=(asyncio.sleep(0.01),)).start()

@pytest.mark.asyncio
async def test_what_nobody_holds():
    file = open(os.devnull)
    cycle = [file]
    cycle.append(cycle)
    file.close()
"""


@pytest.mark.parametrize("folder", [None, *old_versions()], ids=lambda folder: folder.name if folder else "installed")
def test_each_leak_is_told_and_named(suite, folder):
    if folder is not None and sys.version_info >= (3, 14):
        pytest.skip("older than this Python")
    result = suite(
        LEAKS, "--aioqemu-leaks", folder=folder, apart=True
    )  # what is left behind must not be in this process
    found = blamed(result)
    assert {name: len(lines) for name, lines in found.items()} == {
        "test_fd": 2,
        "test_socket": 1,
        "test_thread": 1,
        "test_task": 1,
        "test_sync": 2,
        "test_with_a_careless_fixture": 2,
    }
    assert all(re.search(r"file descriptor left behind: \d+ -> pipe:\[\d+\]", line) for line in found["test_fd"])
    assert re.search(r"socket:\[\d+\] \(AF_INET, \('127.0.0.1', \d+\)\)", found["test_socket"][0])
    assert "the one that waits" in found["test_thread"][0]
    assert "the one that lingers" in found["test_task"][0] and "lingers()" in found["test_task"][0]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("folder", [None, *old_versions()], ids=lambda folder: folder.name if folder else "installed")
def test_what_is_in_order_passes(suite, folder):
    if folder is not None and sys.version_info >= (3, 14):
        pytest.skip("older than this Python")
    result = suite(CLEAN, "--aioqemu-leaks", "--aioqemu-fdmon=io_uring,epoll", folder=folder)
    assert blamed(result) == {}
    result.assert_outcomes(passed=10)


@pytest.mark.parametrize("options", [["--aioqemu"], ["--aioqemu-fdmon=io_uring,epoll"]])
def test_a_loop_that_tests_share(suite, options):
    """It is one loop for each backend, and what it opens when it first runs is its own."""
    text = """
        import asyncio, pytest

        loops = []

        @pytest.mark.asyncio(loop_scope="class")
        class TestShared:
            async def test_first(self):
                loops.append(asyncio.get_running_loop())

            async def test_second(self):
                assert asyncio.get_running_loop() is loops[-1]

            async def test_third(self):
                assert asyncio.get_running_loop() is loops[-1]
    """
    result = suite(text, "--aioqemu-leaks", *options)
    assert blamed(result) == {}
    result.assert_outcomes(passed=3 if options == ["--aioqemu"] else 6)


def test_markers_decide_for_their_tests(suite):
    text = """
        import os, pytest

        @pytest.mark.aioqemu_leaks{}
        def test_marked():
            os.pipe()

        def test_other():
            os.pipe()
    """
    assert list(blamed(suite(text.format(""), "--aioqemu"))) == ["test_marked"]
    assert list(blamed(suite(text.format("(False)"), "--aioqemu-leaks"))) == ["test_other"]
    assert list(blamed(suite(text.format("(False)"), ini="aioqemu_leaks = true"))) == ["test_other"]


def test_anyio_and_unittest(suite):
    pytest.importorskip("anyio.pytest_plugin")
    text = """
        import asyncio, os, pytest, unittest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_leaves_a_task():
            asyncio.create_task(asyncio.sleep(60))

        @pytest.mark.anyio
        async def test_leaves_nothing():
            await asyncio.create_task(asyncio.sleep(0))

        class TestCase(unittest.IsolatedAsyncioTestCase):
            async def test_leaves_a_file(self):
                os.pipe()

            async def test_leaves_nothing_else(self):
                await asyncio.sleep(0)
    """
    found = blamed(suite(text, "--aioqemu-leaks"))
    assert {name: len(lines) for name, lines in found.items()} == {
        "test_leaves_a_task": 1,
        "TestCase.test_leaves_a_file": 2,
    }


POOL = """
import asyncio, concurrent.futures, os, threading
import pytest

@pytest.fixture(scope="module")
def pool():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield pool

kept = []

def teardown_module():
    kept.pop().shutdown()

@pytest.mark.asyncio
async def test_its_own():
    kept.append(concurrent.futures.ThreadPoolExecutor(1))
    await asyncio.get_running_loop().run_in_executor(kept[0], os.getpid)

@pytest.mark.asyncio
async def test_first(pool):
    await asyncio.get_running_loop().run_in_executor(pool, os.getpid)

@pytest.mark.asyncio
async def test_second(pool):
    loop = asyncio.get_running_loop()
    barrier = threading.Barrier(2)
    await asyncio.gather(*(loop.run_in_executor(pool, barrier.wait) for _ in range(2)))

"""


def test_a_pool_of_a_wider_scope_may_start_its_threads_in_a_test(suite):
    """It does so when there is work."""
    result = suite(POOL, "--aioqemu-leaks")
    assert list(blamed(result)) == ["test_its_own"]
    result.assert_outcomes(passed=3, errors=1)
