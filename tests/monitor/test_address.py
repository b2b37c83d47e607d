"""Where a monitor listens, who may connect, and what becomes of the socket's file."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from aioqemu_loop import monitor
from aioqemu_loop.monitor import address
from aioqemu_loop.monitor.address import parse_address
from aioqemu_loop.monitor.client import Client


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("/run/app.sock", "/run/app.sock"),
        ("app.sock", "app.sock"),
        ("dir/host:80", "dir/host:80"),
        ("a:b", "a:b"),
        ("127.0.0.1:4444", ("127.0.0.1", 4444)),
        ("127.9.9.9:0", ("127.9.9.9", 0)),
        ("localhost:4444", ("127.0.0.1", 4444)),
        ("[::1]:4444", ("::1", 4444)),
        ("::1:4444", ("::1", 4444)),
        (Path("127.0.0.1:4444"), "127.0.0.1:4444"),
    ],
)
def test_addresses(text, parsed):
    assert parse_address(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["0.0.0.0:4444", "[::]:4444", ":4444", "192.168.1.1:4444", "example.org:80", "127.0.0.1:70000", "", "\0abstract"],
)
def test_addresses_that_others_could_reach_are_refused(text):
    with pytest.raises(ValueError):
        monitor.start(text)


@pytest.mark.parametrize("wrong", [4444, ("127.0.0.1", 4444), b"/run/app.sock", None])
def test_addresses_of_other_types(wrong):
    with pytest.raises(TypeError):
        monitor.start(wrong)


@pytest.mark.parametrize("options", [{"stall_seconds": 0.009}, {"stall_seconds": float("nan")}, {"max_clients": 0}])
def test_numbers_that_make_no_sense(tmp_path, options):
    with pytest.raises(ValueError):
        monitor.start(tmp_path / "monitor", **options)
    assert not (tmp_path / "monitor").exists()


def test_the_file_is_its_owners_only_from_the_beginning(tmp_path, monkeypatch):
    """Whatever the umask: bind() itself makes it so, nothing is left to a chmod afterwards."""
    path = tmp_path / "monitor"
    modes = []
    listen = socket.socket.listen

    def look_and_listen(sock, *args):
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return listen(sock, *args)

    monkeypatch.setattr(socket.socket, "listen", look_and_listen)
    before = os.umask(0)
    try:
        with monitor.start(path) as started:
            assert os.umask(0) == 0
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert started.address == str(path)
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert not path.exists()


def test_a_stale_file_is_replaced(tmp_path):
    path = tmp_path / "monitor"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with monitor.start(path) as started, Client(started.address) as client:
        assert client.execute("query-version")
    assert list(tmp_path.iterdir()) == []


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path):
    path = tmp_path / "monitor"
    with monitor.start(path) as first:
        with pytest.raises(OSError, match="somebody listens") as caught:
            monitor.start(path)
        assert caught.value.errno == errno.EADDRINUSE
        with Client(first.address) as client:
            assert client.execute("query-version")


def test_one_whose_backlog_is_full_is_left_alone(tmp_path):
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OSError, match="somebody listens"):
            monitor.start(path)
    assert path.is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed(tmp_path, kind):
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError) as caught:
        monitor.start(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.lexists(path)
    assert kind != "file" or path.read_text() == "data"


def test_a_file_that_took_its_place_is_not_removed(tmp_path):
    path = tmp_path / "monitor"
    with monitor.start(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_who_locks_the_folder_keeps_nobody_out(tmp_path, no_leaks):
    """Whoever can read it, /tmp for instance, can do that."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with monitor.start(tmp_path / "monitor"):
            pass
    finally:
        os.close(folder)


def test_a_monitor_that_takes_too_long_to_begin(tmp_path, monkeypatch, no_leaks):
    """Its lock is a file that nobody else can open; one of a process that is gone is as good as none."""
    monkeypatch.setattr(address, "_LOCK_PATIENCE", 0.05)
    lock = os.open(tmp_path / "monitor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="locked") as caught:
        monitor.start(tmp_path / "monitor")
    assert caught.value.errno == errno.EBUSY
    os.close(lock)
    with monitor.start(tmp_path / "monitor"):
        assert [path.name for path in tmp_path.iterdir()] == ["monitor"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_lock_of_another_user_is_refused(tmp_path, no_leaks):
    (tmp_path / "monitor.lock").touch(0o600)
    os.chown(tmp_path / "monitor.lock", 65534, 65534)
    with pytest.raises(PermissionError, match="another user"):
        monitor.start(tmp_path / "monitor")


def test_a_lock_that_is_a_link_is_refused(tmp_path, no_leaks):
    (tmp_path / "monitor.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        monitor.start(tmp_path / "monitor")
    assert not (tmp_path / "elsewhere").exists()


def test_of_many_that_start_at_a_stale_file_one_listens(tmp_path):
    path = tmp_path / "monitor"
    for _ in range(10):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        ready = threading.Barrier(4)
        outcomes = []

        def begin(ready=ready, outcomes=outcomes):
            ready.wait()
            try:
                outcomes.append(monitor.start(path))
            except OSError as exc:
                outcomes.append(exc)

        threads = [threading.Thread(target=begin) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        started = [outcome for outcome in outcomes if isinstance(outcome, monitor.Monitor)]
        assert len(started) == 1, outcomes
        with Client(path) as client:
            assert client.execute("query-version")
        started[0].stop()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path, no_leaks):
    with pytest.raises(FileNotFoundError):
        monitor.start(tmp_path / "nowhere" / "monitor")


def test_loopback_tcp(no_leaks):
    with monitor.start("127.0.0.1:0") as started:
        host, port = started.address.split(":")
        assert host == "127.0.0.1" and int(port) > 0
        with Client(started.address) as client:
            assert client.execute("query-version")
        with pytest.raises(OSError):
            monitor.start(started.address)


def test_loopback_tcp_over_ipv6(no_leaks):
    try:
        started = monitor.start("[::1]:0")
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    with started, Client(started.address) as client:
        assert started.address.startswith("[::1]:")
        assert client.execute("query-version")


def test_a_web_page_cannot_make_a_browser_talk_to_it(no_leaks):
    """What a browser sends begins with lines that are no JSON: the connection is over with the first."""
    with monitor.start("127.0.0.1:0") as started:
        host, port = started.address.split(":")
        with socket.create_connection((host, int(port)), 15) as browser:
            browser.sendall(
                b'POST / HTTP/1.1\r\nHost: x\r\n\r\n{"execute": "qmp_capabilities"}{"execute": "query-version"}'
            )
            answers = b""
            while True:
                try:
                    data = browser.recv(65536)
                except ConnectionResetError:
                    break
                if not data:
                    break
                answers += data
        assert answers.count(b"Invalid JSON syntax") <= 1
        assert b'"return"' not in answers


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with monitor.start("monitor") as started:
        monkeypatch.chdir("/")
        assert started.address == str(tmp_path / "monitor")
    assert not (tmp_path / "monitor").exists()
