"""Every example runs to its end, says what it should, and leaves no warning."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..conftest import need_fdmon

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# `make demo` runs demo.py; tests/iothread, tests/files and tests/docs have the others.
RUN_ELSEWHERE = {"demo.py", "iothread_pool.py", "write_ahead_log.py", "socket_activation.py"}


def run(name: str, *args: str, prefix: tuple[str, ...] = (), **environment: str) -> str:
    result = subprocess.run(
        [*prefix, sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / name), *args],
        capture_output=True,
        text=True,
        timeout=45,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
    )
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "Traceback" not in result.stderr, result.stderr
    return result.stdout


def missing(what: str) -> None:
    # The toolkits are installed for the default Python only, as the applications are.
    default_python = Path(sys.prefix).name == ".venv"
    (pytest.fail if os.environ.get("CI") and default_python else pytest.skip)(f"{what} is not installed")


def test_a_main_loop_of_its_own() -> None:
    assert run("mainloop.py").startswith(
        "1000 lines there and back, driven by a main loop of its own; fd monitor: poll"
    )


def test_tk() -> None:
    if importlib.util.find_spec("_tkinter") is None:
        missing("Tk")
    if shutil.which("xvfb-run") is None:
        missing("xvfb")
    assert run("tk_app.py", "--once", prefix=("xvfb-run", "-a")) == "HELLO FROM TK\n"


def test_qt() -> None:
    if importlib.util.find_spec("PySide6") is None:
        missing("PySide6")
    assert run("qt_app.py", "--once", QT_QPA_PLATFORM="offscreen") == "10000 lines read while Qt ran\n"


def test_gtk() -> None:
    # Not installed for the tests: this one is for machines that have it.
    code = "import gi; gi.require_version('Gtk', '4.0')"
    if shutil.which("xvfb-run") is None or subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
        pytest.skip("GTK 4, PyGObject or xvfb is not installed")
    assert run("gtk_app.py", "--once", prefix=("xvfb-run", "-a")) == "done by a child\n"


@pytest.mark.parametrize("fdmon", ["io_uring", "epoll", "poll"])
def test_echo(fdmon: str) -> None:
    need_fdmon(fdmon)
    said = run("echo.py", "--once", "--fdmon", fdmon).splitlines()
    assert said[0].endswith(f", on {fdmon}") and said[1] == "hello, loop"


def test_many_processes() -> None:
    said = run("many_processes.py", "--once", "--processes", "2").splitlines()
    assert said[1:] == ["2 processes have answered"]


def test_many_processes_starts_anew_what_dies() -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", str(EXAMPLES / "many_processes.py"), "--processes", "1"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().split()[1])
            first = answer(port)
            os.kill(int(first.split()[1]), signal.SIGKILL)
            assert process.stdout.readline() == f"{first} ended with -9; another one starts\n"
            assert answer(port) != first
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "stopped\n" and process.wait(45) == 0
        finally:
            process.kill()


def answer(port: int) -> str:
    """What a process says, as soon as one listens and answers."""
    deadline = time.monotonic() + 45
    while True:
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), 45) as sock:
            if said := sock.makefile().readline():
                return said.rstrip()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_chat() -> None:
    said = run("chat.py", "--once").splitlines()
    assert said[1:] == ["* Bob is here, we are 2", "Bob: hello", "* Bob has left"]


def test_http_server() -> None:
    if importlib.util.find_spec("aiohttp") is None:
        missing("aiohttp")
    assert run("http_server.py", "--once").splitlines()[1:] == ["loop", "['0', '1', '2']", "OVER A WEBSOCKET"]


def test_file_server(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    (tmp_path / "link out").symlink_to("/etc/passwd")
    (tmp_path / "nested").mkdir()
    said = run("file_server.py", "--once", str(tmp_path)).splitlines()
    assert said[1:] == [
        "empty: 200 OK, 0 bytes",
        "large: 200 OK, 3000000 bytes",
        "link out: 403 Forbidden, 0 bytes",
        "nested: 404 Not Found, 0 bytes",
        "../etc/passwd: 403 Forbidden",
    ]


def test_qmp_client() -> None:
    if importlib.util.find_spec("qemu") is None:
        missing("qemu.qmp")
    if shutil.which("qemu-system-x86_64") is None:
        missing("QEMU")
    said = run("qmp_client.py").splitlines()
    assert said[0].startswith("QEMU ")
    assert said[1:] == [
        "IOThread disk: poll-max-ns 65536",
        "stop: STOP",
        "cont: RESUME",
        "quit: SHUTDOWN",
        "exit status 0",
    ]


def test_database(tmp_path: Path) -> None:
    if importlib.util.find_spec("aiosqlite") is None:
        missing("aiosqlite")
    for path in ((), (str(tmp_path / "accounts.db"),)):
        assert run("database.py", *path).splitlines()[1] == "1000 in all, none below 0: True"


def test_busy_polling(tmp_path: Path) -> None:
    options = ["--messages", "200", "--rounds", "1"]
    picture = tmp_path / "picture.svg"
    if importlib.util.find_spec("matplotlib"):
        options += ["--svg", str(picture)]
    said = run("busy_polling.py", *options).splitlines()
    assert said[0].startswith("poll mode off: p50 ") and said[1].startswith("poll mode on: p50 ")
    assert "--svg" not in options or "poll mode on" in picture.read_text()


def test_none_is_forgotten() -> None:
    here = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in RUN_ELSEWHERE or f'"{path.name}"' in here, path.name
