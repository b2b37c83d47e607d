"""What the application tests share: running a coroutine, certificates, real servers, a check for leftovers.

`loop_factory` comes from the conftest.py one folder up, so that each test here runs on every usable backend.
"""

import asyncio
import contextlib
import datetime
import gc
import glob
import importlib
import io
import ipaddress
import logging
import os
import pwd
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import aioqemu_loop

DEADLINE = 30.0  # seconds; before pytest-timeout's 60, because this one tells where each task is
STOP_DEADLINE = 10.0  # seconds that a server gets to end after its signal

if os.environ.get("CI"):
    # The test files skip when their library is missing. In CI that would hide a broken job.
    names = (
        "aiohttp aiosmtpd aiosqlite asyncpg asyncssh dns fastapi granian grpc h11 httptools httpx hypercorn psycopg "
        "redis tornado uvicorn websockets zmq"
    )
    for name in names.split():
        importlib.import_module(name)


def pytest_collection_modifyitems(items):
    if sys.version_info < (3, 11):
        # Python 3.10's own TLS transport says so even when its connection was closed by the other side.
        ignored = pytest.mark.filterwarnings("ignore:unclosed transport <asyncio.sslproto:ResourceWarning")
        for item in items:
            if item.path.parent == Path(__file__).parent:  # items holds those of other folders too
                item.add_marker(ignored)


# --- running --------------------------------------------------------------------------------------


def _run_without_runner(loop_factory, main):
    """What asyncio.Runner does, for Python 3.10, which has none."""
    loop = loop_factory()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        try:
            if left := asyncio.all_tasks(loop):
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


@pytest.fixture
def run(loop_factory):
    """run(coroutine): its result, from a new loop that is closed afterwards."""

    def run_on_new_loop(coroutine):
        async def main():
            task = asyncio.ensure_future(coroutine)
            await asyncio.wait([task], timeout=DEADLINE)
            if not task.done():
                stacks = io.StringIO()
                for each in asyncio.all_tasks() - {asyncio.current_task()}:
                    each.print_stack(file=stacks)
                pytest.fail(f"not done after {DEADLINE} s:\n{stacks.getvalue()}")
            return task.result()

        if not hasattr(asyncio, "Runner"):
            return _run_without_runner(loop_factory, main())
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())

    return run_on_new_loop


@pytest.fixture
def assert_ours(fdmon):
    """assert_ours(), called by a handler or callback of the application: it runs on our loop, on this backend."""

    def assert_ours():
        loop = asyncio.get_running_loop()
        assert type(loop) is aioqemu_loop.Loop, loop
        assert loop.fdmon == fdmon

    return assert_ours


# --- leftovers ------------------------------------------------------------------------------------


def _child_processes():
    children = set()
    for path in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread may end meanwhile
            children.update(Path(path).read_text().split())
    return children


def _open_files():
    """fd -> what it is, for all that a loop or a connection holds; plain files are pytest's own business."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith(("socket:", "pipe:", "anon_inode:")):
                found[fd] = target
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(request, loop_factory, caplog):
    """No process, thread or fd of the test is left, and nothing was logged as an error.

    A loop reports what it cannot raise (a callback that failed, an exception never retrieved) through
    asyncio's logger, and servers log what a request handler raised: both would go unnoticed otherwise.
    Where a library's native threads close their files when they like, its test file says HAS_FDS_OF_ITS_OWN.
    """
    caplog.set_level(logging.WARNING)
    loop_factory().close()  # what its library opens once per process is not a leak (libuv has such a pipe)
    threads, children, files = set(threading.enumerate()), _child_processes(), _open_files()
    yield
    gc.collect()  # a forgotten task or transport complains when it is freed
    for thread in set(threading.enumerate()) - threads:
        thread.join(STOP_DEADLINE)  # told to end, but perhaps not done yet
        assert not thread.is_alive(), f"{thread} is left"
    assert not _child_processes() - children, "a process is left"
    left = {fd: target for fd, target in _open_files().items() if files.get(fd) != target}
    assert not left or getattr(request.module, "HAS_FDS_OF_ITS_OWN", False), "an fd is left"
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    assert not errors, "\n".join(errors)


# --- data -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def big():
    """10 MB in which no part looks like another, so that a lost, doubled or moved piece shows."""
    return random.Random(10).randbytes(10_000_000)


@pytest.fixture(scope="session")
def assert_same():
    """assert_same(got, expected) for long sequences, of which pytest would make a diff for minutes."""

    def assert_same(got, expected):
        if got != expected:
            pairs = enumerate(zip(got, expected, strict=False))
            index = next((i for i, (a, b) in pairs if a != b), min(len(got), len(expected)))
            pytest.fail(f"{len(got)} items instead of {len(expected)}, the first difference is at {index}")

    return assert_same


@dataclass(frozen=True)
class Tls:
    """A certificate authority's certificate, and localhost's certificate and key from it, as PEM files."""

    ca: Path
    cert: Path
    key: Path

    def client(self):
        return ssl.create_default_context(cafile=self.ca)

    def server(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())

    def certificate(name, public_key, *, is_ca):
        # Python 3.13 checks strictly: key usage and both key identifiers must be there.
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=is_ca,
            crl_sign=is_ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")]))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
                ),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    folder = tmp_path_factory.mktemp("tls")
    files = Tls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    files.ca.write_bytes(certificate("test authority", ca_key.public_key(), is_ca=True))
    files.cert.write_bytes(certificate("localhost", key.public_key(), is_ca=False))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return files


# --- real servers ---------------------------------------------------------------------------------


def _missing(reason):
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (an error because CI is set)")
    pytest.skip(reason)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_until_ready(process):
    """What the server has said up to the line in which it is ready; or all that it said, and False."""
    said = []
    for line in process.stdout:
        said.append(line)
        if "ready to accept connections" in line.lower():
            return True, "".join(said)
    return False, "".join(said)


@contextlib.contextmanager
def _server(command, *, stop_with, **popen_options):
    """Run command(port) until the server says that it is ready; yields its port."""
    for _ in range(5):
        port = _free_port()
        process = subprocess.Popen(
            command(port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen_options
        )
        try:
            ready, said = _wait_until_ready(process)
            if ready:
                yield port
                return
        finally:
            _stop(process, stop_with)
        if "Address already in use" not in said:  # if it is, somebody took the port since we looked
            pytest.fail("the server did not start:\n" + said)
    pytest.fail("no free port in five attempts")


def _stop(process, number):
    process.send_signal(number)
    try:
        process.communicate(timeout=STOP_DEADLINE)  # its last words are few: they fit in the pipe
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.fail(f"the server did not end within {STOP_DEADLINE} s")


@pytest.fixture(params=["tcp", "unix"])
def redis_url(request):
    """A redis-server of its own for the test, on a TCP port or on a Unix socket."""
    binary = shutil.which("redis-server")
    if binary is None:
        _missing("redis-server is not on PATH")
    # Not pytest's tmp_path: a Unix socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = f"{folder}/redis.sock"

        def command(port):
            where = ["--port", str(port), "--bind", "127.0.0.1"]
            if request.param == "unix":
                where = ["--port", "0", "--unixsocket", path]
            return [binary, *where, "--dir", folder, "--save", "", "--appendonly", "no"]

        with _server(command, stop_with=signal.SIGTERM) as port:
            yield f"unix://{path}" if request.param == "unix" else f"redis://127.0.0.1:{port}/0"


@dataclass(frozen=True)
class Cluster:
    """A folder that initdb has filled, and the means to run PostgreSQL's programs on it."""

    binaries: Path
    folder: Path
    popen_options: dict


def _postgres_binaries():
    found = [shutil.which("postgres"), *glob.glob("/usr/lib/postgresql/*/bin/postgres")]
    for postgres in filter(None, found):
        folder = Path(postgres).resolve().parent
        if (folder / "initdb").exists():
            return folder
    return _missing("postgres and initdb are neither on PATH nor in /usr/lib/postgresql/*/bin")


@pytest.fixture(scope="session")
def postgres_cluster(tls):
    binaries = _postgres_binaries()
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    # Not pytest's tmp_path: only its owner may enter that, and Unix socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        options = {"cwd": folder, "env": environment, "stdin": subprocess.DEVNULL}
        for source, target in ((tls.cert, "cert.pem"), (tls.key, "key.pem")):
            shutil.copy(source, folder / target)
            (folder / target).chmod(0o600)  # postgres refuses a key that others may read
        if os.geteuid() == 0:  # postgres refuses to run as root
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                user = pwd.getpwnam("nobody")
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            [*initdb, "--encoding=UTF8", "--locale=C"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **{key: value for key, value in options.items() if key != "stdin"},
        )
        if done.returncode:
            pytest.fail("initdb failed:\n" + done.stdout)
        yield Cluster(binaries, folder, options)


@dataclass(frozen=True)
class Postgres:
    port: int
    socket_folder: str

    def address(self, over):
        return {
            "host": "127.0.0.1" if over == "tcp" else self.socket_folder,
            "port": self.port,
            "user": "tester",
            "database": "postgres",
            "ssl": False,
        }


@pytest.fixture
def postgres(postgres_cluster):
    """PostgreSQL of its own for the test, on a Unix socket and on TCP with TLS."""
    folder = postgres_cluster.folder
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "ssl": "on",
        "ssl_cert_file": folder / "cert.pem",
        "ssl_key_file": folder / "key.pem",
        "fsync": "off",
        "log_min_messages": "log",  # not each query that fails: nobody reads the pipe after the start
    }

    def command(port):
        arguments = [f"--{key}={value}" for key, value in {**settings, "port": port}.items()]
        return [postgres_cluster.binaries / "postgres", "-D", folder / "data", *arguments]

    # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
    with _server(command, stop_with=signal.SIGINT, **postgres_cluster.popen_options) as port:
        yield Postgres(port, str(folder))
