"""`run`: a program finds what it finds under plain python, and this loop where asyncio makes one by default."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import zipfile

import pytest

from ..conftest import need_fdmon
from .conftest import ROOT

SHOW = """
import asyncio, json, sys

async def main():
    loop = asyncio.get_running_loop()
    return [type(loop).__module__, getattr(loop, "fdmon", None), loop.get_debug()]

if __name__ == "__main__":
    import __main__
    facts = {
        "argv": sys.argv, "path0": sys.path[0], "file": __file__, "package": __package__,
        "spec": None if __spec__ is None else __spec__.name, "cached": globals().get("__cached__"),
        "names": sorted(globals()), "main": __main__.__dict__ is globals(), "loader": type(__loader__).__name__,
    }
    print(json.dumps({"loop": asyncio.run(main()), "facts": facts}))
"""


def as_python(*args, cwd, options=()):
    """What plain python says of itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *options, *args], cwd=cwd, env=environment, capture_output=True, text=True, timeout=50
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["facts"]


def shown(result):
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_a_script_on_each_backend(command, script, fdmon):
    found = shown(command("run", "--fdmon", fdmon, script(SHOW)))
    assert found["loop"] == ["aioqemu_loop.loop.loop", fdmon, False]


def test_a_script_from_a_pipe(command, tmp_path):
    """It can be read once only."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("print('read')",))
    writer.start()
    result = command("run", str(pipe))
    writer.join()
    assert (result.returncode, result.stdout, result.stderr) == (0, "read\n", "")


@pytest.mark.parametrize(
    "kind, options",
    [
        ("script", ()),
        ("module", ()),
        ("package", ()),
        ("folder", ()),
        ("zip", ()),
        ("script", ("-I",)),
        ("zip", ("-I",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "".join(value) or "plain",
)
def test_the_program_finds_what_python_gives_it(command, script, tmp_path, kind, options):
    program = {
        "script": [script(SHOW, "sub/program.py")],
        "module": ["-m", "program"],
        "package": ["-m", "parcel"],
        "folder": ["parcel"],
        "zip": ["parcel.zip"],
    }[kind]
    script(SHOW)
    script("", "parcel/__init__.py")
    script(SHOW, "parcel/__main__.py")
    with zipfile.ZipFile(tmp_path / "parcel.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    args = [*program, "-m", "--fdmon", "x", "--", "-h", ""]
    if options:
        launch = (
            *options,
            "-c",
            f"import sys; sys.path.append({str(ROOT)!r}); from aioqemu_loop.cli.main import main; main()",
        )
        result = subprocess.run([sys.executable, *launch, "run", *args], cwd=tmp_path, capture_output=True, text=True)
    else:
        result = command("run", *args)
    found = shown(result)
    expected = as_python(*args, cwd=tmp_path, options=options)
    if options:
        expected["path0"] = found["facts"]["path0"]
        assert str(tmp_path) not in found["facts"]["path0"] or kind in ("folder", "zip")
    assert found["facts"] == expected
    assert found["loop"][0] == "aioqemu_loop.loop.loop"


SHOW_SELF = """
import asyncio, json, sys
import __main__

async def main():
    loop = asyncio.get_running_loop()
    return [type(loop).__module__, getattr(loop, "fdmon", None), loop.get_debug()]

facts = {
    "argv": sys.argv, "path0": sys.path[0], "code": main.__code__.co_filename, "names": sorted(globals()),
    "main": __main__.__dict__ is globals(), "loader": str(__loader__), "spec": __spec__, "package": __package__,
}
print(json.dumps({"loop": asyncio.run(main()), "facts": facts}))
"""


@pytest.mark.parametrize(
    "program, stdin",
    [(["-c", SHOW_SELF], ""), (["-c" + SHOW_SELF], ""), (["-"], SHOW_SELF)],
    ids=["-c", "attached", "stdin"],
)
def test_a_program_on_the_command_line_or_standard_input(command, tmp_path, program, stdin):
    args = [*program, "-m", "--fdmon", "x", "-", "-c"]
    found = shown(command("run", "--fdmon", "poll", *args, stdin=stdin))
    plain = subprocess.run([sys.executable, *args], cwd=tmp_path, input=stdin, capture_output=True, text=True)
    assert found["facts"] == json.loads(plain.stdout)["facts"]
    assert found["loop"] == ["aioqemu_loop.loop.loop", "poll", False]


@pytest.mark.parametrize("code", ["1 / 0", "x = (", "  x = 1\n  print(x)", "import sys; sys.exit(7)"])
@pytest.mark.parametrize("how", ["-c", "-"])
def test_what_such_a_program_raises_looks_as_under_python(command, tmp_path, how, code):
    args, stdin = (["-c", code], "") if how == "-c" else (["-"], code)
    result = command("run", *args, stdin=stdin)
    plain = subprocess.run([sys.executable, *args], cwd=tmp_path, input=stdin, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (plain.returncode, plain.stdout)
    # From 3.13 on python shows the line itself, which it has put aside for that.
    ours, theirs = ([line.strip(" ^~") for line in text.splitlines()] for text in (result.stderr, plain.stderr))
    assert ours == [line for line in theirs if line in ours]
    assert ours[-1:] == theirs[-1:]


def test_where_python_has_no_policies(command, tmp_path):
    """As 3.16 will be: asyncio.run() makes its loop by events.new_event_loop()."""
    code = (
        "import asyncio, sys; from aioqemu_loop import policy; policy.HAS_POLICIES = False\n"
        "from aioqemu_loop.cli.main import main\n"
        "sys.exit(main(['run', '-c', sys.argv[1]]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, SHOW_SELF + "print(type(asyncio.new_event_loop()).__module__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AIOQEMU_FDMON": "poll"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert json.loads(first)["loop"] == ["aioqemu_loop.loop.loop", "poll", False]
    assert second == "aioqemu_loop.loop.loop"


WAYS = """
import asyncio, sys, warnings
import aioqemu_loop

def name(loop):
    loop.close()
    return "ours" if isinstance(loop, aioqemu_loop.Loop) else type(loop).__name__

async def main():
    return type(asyncio.get_running_loop())

print("new_event_loop", name(asyncio.new_event_loop()))
if sys.version_info < (3, 14):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        print("get_event_loop", name(asyncio.get_event_loop_policy().get_event_loop()))
if sys.version_info >= (3, 11):
    with asyncio.Runner() as runner:
        print("Runner", "ours" if runner.run(main()) is aioqemu_loop.Loop else "theirs")
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        print("their factory", "ours" if runner.run(main()) is aioqemu_loop.Loop else "theirs")
print("named", name(asyncio.SelectorEventLoop()))
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
print("their policy", name(asyncio.new_event_loop()))
"""


def test_every_way_to_a_default_loop_and_what_is_asked_for_by_name(command, script):
    result = command("run", script(WAYS))
    assert (result.returncode, result.stderr) == (0, "")
    found = dict(line.rsplit(" ", 1) for line in result.stdout.splitlines())
    ours = {"new_event_loop", "Runner", "get_event_loop"} & found.keys()
    assert {name for name, whose in found.items() if whose == "ours"} == ours
    assert found["named"] == found["their policy"] == "_UnixSelectorEventLoop"


CHILDREN = """
import asyncio, concurrent.futures, multiprocessing, os, sys

async def main():
    return type(asyncio.get_running_loop()).__module__ + " " + asyncio.get_running_loop().fdmon

def child(_):
    return asyncio.run(main())

if __name__ == "__main__":
    os.chdir("/")
    for method in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            print(method, *pool.map(child, [0]))
"""


def test_children_of_multiprocessing(command, script):
    result = command("run", "--fdmon", "poll", script(CHILDREN))
    assert result.returncode == 0, result.stderr
    methods = ("fork", "forkserver", "spawn")
    assert sorted(result.stdout.splitlines()) == [f"{method} aioqemu_loop.loop.loop poll" for method in methods]


class TestEnds:
    @pytest.mark.parametrize(
        "code, status, said",
        [
            ("import sys; sys.exit(7)", 7, ""),
            ("import sys; sys.exit('no')", 1, "no\n"),
            ("raise SystemExit", 0, ""),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
            ("import atexit; atexit.register(lambda: print(__name__, x)); x = 1", 0, ""),
        ],
    )
    def test_exit_status(self, command, script, code, status, said):
        result = command("run", script(code))
        assert (result.returncode, result.stderr) == (status, said)
        assert result.stdout in ("", "__main__ 1\n")

    @pytest.mark.parametrize("how", ["script", "module"])
    @pytest.mark.parametrize(
        "body",
        ["1 / 0", "raise KeyboardInterrupt", "x = (", "import sys; sys.excepthook = lambda *a: print(a[0]); 1 / 0"],
    )
    def test_what_it_raises_looks_as_under_python(self, command, script, tmp_path, how, body):
        path = script(f"def f():\n    {body}\nf()\n")
        program = [path] if how == "script" else ["-m", "program"]
        result = command("run", *program)
        plain = subprocess.run([sys.executable, *program], cwd=tmp_path, capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (plain.returncode, plain.stdout)
        lines = plain.stderr.splitlines()
        if how == "module" and lines:  # python shows its own way to the module, we do not
            last = max(i for i, line in enumerate(lines) if line.startswith("  File ") and "runpy" in line)
            last += lines[last + 1].startswith("    ")
            lines[1 : last + 1] = []
        assert result.stderr.splitlines() == lines

    def test_a_real_interrupt(self, script, tmp_path):
        path = script(
            "import asyncio\nasync def main():\n    print(1, flush=True)\n    await asyncio.sleep(60)\n"
            "asyncio.run(main())"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "aioqemu_loop", "run", path], env=environment, cwd=tmp_path, stdout=-1, stderr=-1
        )
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGINT
        assert errors.rstrip().endswith(b"KeyboardInterrupt")


class TestOptions:
    def test_they_are_in_the_environment(self, command, script, tmp_path):
        path = script(
            "import os; print(*(os.environ.get('AIOQEMU_' + n) for n in ('FDMON', 'POLL_MAX_NS', 'MONITOR')))"
        )
        result = command("run", "--poll-max-ns", "0", "--monitor", "sub/qmp.sock", path, AIOQEMU_FDMON="")
        assert result.stdout == f" 0 {tmp_path}/sub/qmp.sock\n"
        result = command("run", "--fdmon=epoll", "--monitor=127.0.0.1:4444", path, AIOQEMU_FDMON="poll")
        assert result.stdout == "epoll None 127.0.0.1:4444\n"

    def test_debug(self, command, script):
        result = command("run", "--debug", script(SHOW))
        assert shown(result)["loop"][2] is True

    @pytest.mark.parametrize(
        "args, said",
        [
            (["--fdmon", "kqueue"], "'kqueue'"),
            (["--poll-max-ns", "-5"], "AIOQEMU_POLL_MAX_NS must be in"),
            (["--poll-max-ns", "soon"], "'soon'"),
            (["--quick"], "--quick"),
        ],
    )
    def test_a_wrong_value_is_told_before_the_program_starts(self, command, script, args, said):
        result = command("run", *args, script("print('started')"))
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr and "Traceback" not in result.stderr

    def test_a_backend_that_cannot_be_had_is_told_with_the_reason(self, command, script):
        from ..uring.test_denied import deny

        result = command("run", "--fdmon", "io_uring", script("print('started')"), preexec_fn=lambda: deny(1))
        if "SubprocessError" in result.stderr:
            pytest.skip("no seccomp here")
        assert (result.returncode, result.stdout) == (2, "")
        assert "'io_uring' is not available: denied by a seccomp profile" in result.stderr

    @pytest.mark.parametrize("args", [[], ["-m"], ["-c"], ["--fdmon"], ["nowhere.py"], ["-m", "nowhere"]])
    def test_no_program(self, command, args):
        result = command("run", *args)
        assert result.returncode != 0 and result.stdout == ""
        assert result.stderr != "" and "Traceback" not in result.stderr


class TestOtherPrograms:
    def test_pytest(self, command, script):
        script(
            "import asyncio, aioqemu_loop\n"
            "async def main(): return type(asyncio.get_running_loop())\n"
            "def test_it(): assert asyncio.run(main()) is aioqemu_loop.Loop\n",
            "test_it.py",
        )
        result = command("run", "-m", "pytest", "-q", "-p", "no:cacheprovider", options=())
        assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout + result.stderr

    APP = """
import asyncio
async def app(scope, receive, send):
    loop = asyncio.get_running_loop()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{type(loop).__module__} {getattr(loop, 'fdmon', '')}".encode()})
"""

    @pytest.mark.parametrize(
        "args, loop", [((), "aioqemu_loop.loop.loop epoll"), (("--loop", "asyncio"), "asyncio.unix_events ")]
    )
    def test_uvicorn(self, script, tmp_path, args, loop):
        pytest.importorskip("uvicorn")
        import socket
        import urllib.request

        script(self.APP, "app.py")
        run = [sys.executable, "-m", "aioqemu_loop", "run", "--fdmon", "epoll", "-m", "uvicorn", "app:app"]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            process = subprocess.Popen(
                [*run, "--fd", str(listener.fileno()), "--log-level", "warning", "--lifespan", "off", *args],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[listener.fileno()],
            )
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.read().decode() == loop
        finally:
            process.terminate()
            process.wait(30)


def test_liburing_that_cannot_be_had(command, script):
    import aioqemu_loop

    reason = aioqemu_loop.fdmons()["liburing"]
    if reason is None:
        need_fdmon("liburing")
        assert shown(command("run", "--fdmon", "liburing", script(SHOW)))["loop"][1] == "liburing"
    else:
        result = command("run", script("print('started')"), AIOQEMU_FDMON="liburing")
        assert (result.returncode, result.stdout) == (2, "")
        assert reason in result.stderr
