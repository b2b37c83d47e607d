"""The recipes of docs/integrations.md, as they stand there, run as a user would run them: in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from .blocks import ROOT, blocks_of

BLOCKS = blocks_of(ROOT / "docs" / "integrations.md")
RECIPES = {block.file_name: block.code for block in BLOCKS if block.file_name}
PATIENCE_S = 30.0
APPLICATION = """
import asyncio, json, os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    loop = asyncio.get_running_loop()
    said = {"loop": type(loop).__module__, "fdmon": getattr(loop, "fdmon", None), "pid": os.getpid()}
    body = json.dumps(said).encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})
"""
DJANGO = """
import asyncio
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path

async def index(request):
    loop = asyncio.get_running_loop()
    return JsonResponse({"loop": type(loop).__module__, "fdmon": getattr(loop, "fdmon", None)})

urlpatterns = [path("", index)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="not secret", DEBUG=False)
application = get_asgi_application()
"""


def need(name: str) -> None:
    """In CI nothing may be missing where the applications are installed: in the default Python's environment."""
    try:
        __import__(name)
    except ImportError:
        (pytest.fail if os.environ.get("CI") and Path(sys.prefix).name == ".venv" else pytest.skip)(f"no {name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With all recipes, and applications for them."""
    for name, code in RECIPES.items():
        if name and "/" not in name:
            (tmp_path / name).write_text(code)
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "project.py").write_text(DJANGO)
    return tmp_path


def environment(fdmon: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "AIOQEMU_FDMON": fdmon, "PYTHONWARNINGS": "default"}


@contextlib.contextmanager
def served(folder: Path, *arguments: str, fdmon: str = "auto", stop: int = signal.SIGTERM) -> Iterator[int]:
    """`python ARGUMENTS`, where PORT stands for a free port, until the end of the block. Yields the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(argument.replace("PORT", str(port)) for argument in arguments)]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment(fdmon), stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield port
        process.send_signal(stop)
        process.wait(PATIENCE_S)
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ask(port: int) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/")
    answer = connection.getresponse().read()
    connection.close()
    return dict(json.loads(answer))


def test_uvicorn(folder: Path, fdmon: str) -> None:
    need("uvicorn")
    arguments = ("-m", "uvicorn", "--loop", "aioqemu_loop:new_event_loop", "--port", "PORT", "app:app")
    with served(folder, *arguments, fdmon=fdmon) as port:
        assert ask(port)["fdmon"] == fdmon


def test_uvicorn_with_several_workers(folder: Path) -> None:
    need("uvicorn")
    arguments = ("--loop", "aioqemu_loop:new_event_loop", "--workers", "2", "--port", "PORT", "app:app")
    with served(folder, "-m", "uvicorn", *arguments) as port:
        assert ask(port)["loop"] == "aioqemu_loop.loop.loop"


def test_gunicorn(folder: Path, fdmon: str) -> None:
    """It forks its workers."""
    need("gunicorn")
    need("uvicorn_worker")
    with served(folder, "-m", "gunicorn", "-b", "127.0.0.1:PORT", "app:app", fdmon=fdmon) as port:
        assert ask(port)["fdmon"] == fdmon


def test_gunicorn_with_its_own_asgi_worker(folder: Path) -> None:
    need("gunicorn")
    if sys.version_info >= (3, 14):
        pytest.skip("install() warns here, and policies are about to go")
    arguments = ("-c", "gunicorn_asgi.conf.py", "-b", "127.0.0.1:PORT", "app:app")
    with served(folder, "-m", "gunicorn", *arguments, fdmon="epoll") as port:
        assert ask(port)["fdmon"] == "epoll"


@pytest.mark.parametrize("name", ["hypercorn", "granian", "aiohttp"])
def test_programs(folder: Path, name: str) -> None:
    need(name)
    with served(folder, f"serve_{name}.py", "PORT", fdmon="epoll", stop=signal.SIGINT) as port:
        assert ask(port)["fdmon"] == "epoll"


def test_django_on_uvicorn(folder: Path) -> None:
    need("django")
    arguments = ("--loop", "aioqemu_loop:new_event_loop", "--port", "PORT", "project:application")
    with served(folder, "-m", "uvicorn", *arguments) as port:
        assert ask(port)["loop"] == "aioqemu_loop.loop.loop"


def test_django_on_daphne(folder: Path) -> None:
    need("django")
    need("daphne")
    with served(folder, "serve_daphne.py", "-p", "PORT", "project:application", fdmon="epoll") as port:
        assert ask(port)["fdmon"] == "epoll"


def test_dask(folder: Path) -> None:
    need("distributed")
    done = subprocess.run(
        [sys.executable, "dask_cluster.py"],
        cwd=folder,
        env=environment("epoll"),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(["aioqemu_loop.loop.loop on epoll"] * 2),
        str(sum(x * x for x in range(100))),
    ]


def test_jupyter_kernel(folder: Path) -> None:
    need("ipykernel")
    need("jupyter_client")
    code = """
import asyncio, sys
from jupyter_client import KernelManager

manager = KernelManager()
manager._kernel_spec = manager.kernel_spec
manager.kernel_spec.argv = [sys.executable, *eval(sys.argv[1])[1:]]
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=30)
said = []
client.execute_interactive(
    "import asyncio; await asyncio.sleep(0.01); print(asyncio.get_running_loop().fdmon)",
    output_hook=lambda message: said.append(message["content"].get("text", message)),
    timeout=30,
)
client.stop_channels()
manager.shutdown_kernel(now=True)
print(said)
"""
    specification = next(json.loads(block.code) for block in BLOCKS if block.language == "json")
    done = subprocess.run(
        [sys.executable, "-c", code, str(specification["argv"])],
        cwd=folder,
        env={**environment("epoll"), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "epoll\\n" in done.stdout, done.stdout + done.stderr


def test_systemd(folder: Path) -> None:
    """Played by this test: the socket is fd 3 of the program, and LISTEN_PID its number."""
    launcher = (
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "os.execv(sys.executable, [sys.executable, '-X', 'dev', '-W', 'error', sys.argv[2]])\n"
    )
    program = ROOT / "examples" / "socket_activation.py"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as early:
        early.connect(listener.getsockname())  # before the service runs
        process = subprocess.Popen(
            [sys.executable, "-c", launcher, str(listener.fileno()), str(program)],
            env=environment("auto"),
            pass_fds=(listener.fileno(),),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            early.settimeout(PATIENCE_S)
            early.sendall(b"hello")
            assert early.recv(100) == b"hello"
            early.close()
            process.terminate()
            said, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0 and said == "serving on 1 inherited socket(s)\n", said


def test_systemd_without_a_socket() -> None:
    program = ROOT / "examples" / "socket_activation.py"
    done = subprocess.run([sys.executable, program], env=environment("auto"), capture_output=True, text=True)
    assert done.returncode == 1 and "no socket was passed" in done.stderr
