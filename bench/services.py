"""Servers that stay the same while the loops change: started when first asked for, on the load's CPU."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from bench import NotMeasured, native
from bench.children import Child

START_TIMEOUT_S = 20.0


class Services:
    """A context manager; what was started ends with it."""

    def __init__(self, cpu: int | None) -> None:
        self._cpu = cpu
        self._stack = contextlib.ExitStack()
        self._addresses: dict[str, str | NotMeasured] = {}

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        """HOST:PORT of the service, which runs from then on; NotMeasured if it cannot."""
        if name not in self._addresses:
            try:
                self._addresses[name] = self._stack.enter_context(SERVICES[name](self._cpu))
            except (NotMeasured, OSError) as reason:
                self._addresses[name] = NotMeasured(str(reason))
        found = self._addresses[name]
        if isinstance(found, NotMeasured):
            raise found
        return found


@contextlib.contextmanager
def echo(cpu: int | None) -> Iterator[str]:
    with Child([native.build("server_epoll"), "127.0.0.1:0"], cpu) as child:
        yield child.read_line(START_TIMEOUT_S).removeprefix("ready ")


@contextlib.contextmanager
def redis(cpu: int | None) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise NotMeasured("redis-server is not on PATH (Debian: redis-server)")
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        port = _free_port()
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with Child([binary, *words], cpu, quiet=True) as child:
            _wait_for_port(port, child)
            yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def postgres(cpu: int | None) -> Iterator[str]:
    binaries = _postgres_binaries()
    # Only its owner may enter the folder, and Unix socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="bench-pg-", ignore_cleanup_errors=True) as name:
        user = None
        if os.geteuid() == 0:  # postgres refuses to run as root
            user = _unprivileged_user()
            os.chown(name, user, -1)
        data = f"{name}/data"
        initdb = [f"{binaries}/initdb", "-D", data, "-U", "bench", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C"], user=user, cwd=name, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotMeasured(f"initdb failed: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
        port = _free_port()
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": name, "fsync": "off", "port": port}
        words = [f"--{key}={value}" for key, value in settings.items()]
        with Child([f"{binaries}/postgres", "-D", data, *words], cpu, quiet=True, user=user) as child:
            _wait_for_port(port, child)
            try:
                yield f"127.0.0.1:{port}"
            finally:
                child.stop()  # SIGTERM: it ends once its clients have gone, which they have


SERVICES: dict[str, Callable[[int | None], contextlib.AbstractContextManager[str]]] = {
    "echo": echo,
    "redis": redis,
    "postgres": postgres,
}


def _postgres_binaries() -> Path:
    for found in (shutil.which("postgres"), *glob.glob("/usr/lib/postgresql/*/bin/postgres")):
        if found and (folder := Path(found).resolve().parent).joinpath("initdb").exists():
            return folder
    raise NotMeasured("postgres and initdb are neither on PATH nor in /usr/lib/postgresql/*/bin (Debian: postgresql)")


def _unprivileged_user() -> int:
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(port: int, child: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        child.check_runs()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise child.failure(f"does not listen after {START_TIMEOUT_S:.0f} s")
