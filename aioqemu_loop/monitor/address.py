"""Where a monitor listens: a Unix socket that only its owner can connect to, or a port of a loopback address."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import re
import socket
import stat
import time
from collections.abc import Iterator

Address = str | os.PathLike[str]
TCPAddress = tuple[str, int]
Identity = tuple[int, int, int]

_BACKLOG = 16
# Seconds that another monitor in the same folder may take to begin to listen.
_LOCK_PATIENCE = 2.0


def parse_address(address: Address) -> str | TCPAddress:
    """A path, or (host, port) of a loopback address. Text without a slash that ends in ":" and a number is the latter.

    Raises ValueError for every other host, TypeError for what is neither text nor a path.
    """
    text = os.fspath(address)
    if not isinstance(text, str):
        raise TypeError(f"a monitor's address must be a str or a path, not {address!r}")
    found = re.fullmatch(r"(.*):(\d+)", text) if isinstance(address, str) and "/" not in text else None
    if found is None:
        # A name that begins with a zero byte is an abstract one, which anybody may connect to.
        if not text or "\0" in text:
            raise ValueError(f"a monitor's address must be a path or a loopback host:port, not {text!r}")
        return text
    host, port = found[1].strip("[]"), int(found[2])
    if host == "localhost":
        host = "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"a monitor listens on loopback addresses only (127.0.0.1, ::1, localhost), not on {text!r}")
    if port > 65535:
        raise ValueError(f"{port} is not a port: {text!r}")
    return host, port


def format_address(address: str | TCPAddress) -> str:
    """The text that parse_address() understands."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(address: str | TCPAddress) -> ListeningSocket:
    """Raises OSError: EADDRINUSE where somebody listens already, or where the path is a file of another kind."""
    return ListeningSocket(_listen_unix(address) if isinstance(address, str) else _listen_tcp(address))


class ListeningSocket:
    """The socket, its address, and its file, which goes with it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._identity: Identity | None = None
        if sock.family == socket.AF_UNIX:
            self.address: str = os.path.abspath(sock.getsockname())
            self._identity = _identity(self.address)
        else:
            host, port, *_ = sock.getsockname()
            self.address = format_address((host, port))

    def remove_file(self) -> None:
        """Remove the socket's file, if it still is this socket's."""
        if self._identity is not None and _identity(self.address) == self._identity:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.address)


def _listen_tcp(address: TCPAddress) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        undo.pop_all()
    return sock


def _listen_unix(path: str) -> socket.socket:
    with contextlib.ExitStack() as undo, _one_at_a_time(path):
        sock = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # bind() makes the file with the socket's own mode. The umask, which is the whole process's, only takes from it.
        os.fchmod(sock.fileno(), 0o600)
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(path)
        sock.listen(_BACKLOG)
        undo.pop_all()
    return sock


@contextlib.contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Monitors at one path begin to listen one after the other: of two that find a stale file only one replaces it, and
    none takes one for stale that is not listened on yet. What is locked is a file that only this user can open, so that
    nobody else can keep it locked; it is gone afterwards."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while (lock := _take_lock(f"{path}.lock")) is None:
        if time.monotonic() >= deadline:
            raise OSError(errno.EBUSY, f"somebody keeps {path + '.lock'!r} locked")
        time.sleep(0.005)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.lock")
        _let_go(lock)


def _take_lock(path: str) -> int | None:
    """An fd, or None while another has it. Raises OSError, PermissionError where the file is another user's."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"{path!r} belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _identity(path) == _identity(lock):
            return lock
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    _let_go(lock)  # whoever had it has removed the file meanwhile
    return None


def _let_go(lock: int) -> None:
    fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough: a child that is forked just now has it open, too
    os.close(lock)


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone. Raises OSError (EADDRINUSE) where it is not that."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EADDRINUSE, f"{path!r} exists and is not a socket")
    if _somebody_listens(path):
        raise OSError(errno.EADDRINUSE, f"somebody listens on {path!r} already")
    os.unlink(path)


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:  # its backlog is full
            return True
    return True


def _identity(file: str | int) -> Identity | None:
    """Of a path or an open file. Inode numbers are used again soon, but hardly at the same time."""
    try:
        found = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
