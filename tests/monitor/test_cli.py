"""`monitor PATH [COMMAND ...]` of the command line, and its live view."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys

import pytest

from aioqemu_loop.monitor import cli, figures
from aioqemu_loop.monitor.client import Client

rich = pytest.importorskip("rich")


def call(*words):
    """The exit status."""
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args(words))


def test_a_command_prints_its_answer_as_json(program, watched, loop_id, capsys):
    program.start(asyncio.sleep(60), name="sleeper")
    assert call(watched.address, "query-tasks", f"loop={loop_id}", "limit=1", "stacks=false") == 0
    (task,) = json.loads(capsys.readouterr().out)
    assert task["name"] == "sleeper" and "stack" not in task
    assert call(watched.address, "query-tasks", json.dumps({"loop": loop_id, "limit": 1})) == 0
    assert "stack" in json.loads(capsys.readouterr().out)[0]


@pytest.mark.parametrize(
    "words, status, message",
    [
        (["nix"], 1, "The command nix has not been found"),
        (["query-tasks", "limit=x"], 1, "Invalid parameter type for 'limit', expected: integer"),
        (["query-tasks", "limit"], 2, "an argument is key=value, not 'limit'"),
        (["query-tasks", "=3"], 2, "an argument is key=value, not '=3'"),
        (["query-tasks", "{limit"], 2, "not JSON"),
        (["--interval", "0"], 2, "--interval must be from 0.05"),
    ],
)
def test_errors_go_to_stderr(watched, capsys, words, status, message):
    assert call(watched.address, *words) == status
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.startswith("aioqemu_loop monitor: ")


def test_a_monitor_that_is_not_there(tmp_path, capsys):
    assert call(str(tmp_path / "nowhere"), "query-version") == 1
    assert "No such file" in capsys.readouterr().err
    assert call("example.org:80", "query-version") == 2


def test_a_server_that_is_no_monitor(tmp_path, capsys):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "other"))
        server.listen()
        import threading

        def answer():
            connection, _ = server.accept()
            connection.sendall(b"220 hello\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert call(str(tmp_path / "other"), "query-version") == 1
        thread.join()
    assert "no QMP server" in capsys.readouterr().err


def test_without_rich_it_says_what_to_install(watched, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "aioqemu_loop.monitor.view", raising=False)
    for name in list(sys.modules):
        if name.partition(".")[0] == "rich":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert call(watched.address) == 1
    assert "pip install rich" in capsys.readouterr().err


def test_the_package_does_not_need_rich():
    code = "import sys; sys.modules['rich'] = None; from aioqemu_loop.monitor import cli, start"
    subprocess.run([sys.executable, "-c", code], check=True)


def page(before, now, width=80):
    """The view's lines."""
    from aioqemu_loop.monitor.view import plain_console, render

    console = plain_console(file=io.StringIO(), width=width, height=24)
    console.print(render(before, now, "aioqemu_loop 0", "/run/app.sock"))
    return console.file.getvalue().splitlines()


async def tick_tock():
    while True:
        await asyncio.sleep(0.001)


def test_the_view_fits_into_80_by_24(program, watched, fdmon, loop_id):
    from aioqemu_loop.monitor.view import take

    server = program.run(asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0))
    for i in range(30):
        program.start(asyncio.sleep(60 + i))
        program.start(asyncio.wait_for(asyncio.sleep(60), 60))
    program.start(tick_tock())
    with Client(watched.address) as client:
        before = take(client)
        for _ in range(10):
            program.call(int)
        lines = page(before, take(client))
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "/run/app.sock" in text and "program" in text and fdmon in text
    assert "tcp-listener" in text and "sleep" in text
    assert [line for line in lines if "tick_tock" in line and loop_id in line and "%" in line]
    program.call(server.close)


def test_the_view_tells_where_a_loop_is_stuck(program, watched, client, next_event, loop_id):
    from aioqemu_loop.monitor.view import take

    before = take(client)
    with program.blocked():
        next_event("LOOP_STALLED")
        text = "\n".join(page(before, take(client), 200))
    assert f"{loop_id}" in text and "stalled for" in text and "threading.py" in text


def test_names_are_printed_as_they_are(program, watched, client):
    """None is taken for markup, which "[/]" is wrong in, nor ":cat:" for a picture."""
    from aioqemu_loop.monitor.view import take

    now = take(client)
    loop = now.loops[-1]
    loop["thread"], loop["iothread"] = "worker [/] a:cat:b", None
    transport = {"fd": 7, "kind": "tcp", "local": None, "peer": "[fe80::1]:443", "buffered": 0}
    now.transports[:] = [{**transport, "reading-paused": False, "writing-paused": False, "closing": False, "tls": None}]
    now.loops[:] = [loop]
    text = "\n".join(page(now, now, 120))
    assert "worker [/] a:cat:b" in text and "[fe80::1]:443" in text


def test_where_the_output_is_no_terminal_the_view_is_printed_once(program, watched, capsys):
    assert call(watched.address, "--interval", "0.05") == 0
    assert "program" in capsys.readouterr().out


def test_in_a_terminal_the_view_lives_until_ctrl_c(program, watched):
    code = (
        "import argparse, sys; from aioqemu_loop.monitor import cli; parser = argparse.ArgumentParser();"
        "cli.add_arguments(parser); sys.exit(cli.main(parser.parse_args()))"
    )
    terminal, inside = pty.openpty()
    view = subprocess.Popen(
        [sys.executable, "-c", code, watched.address, "--interval", "0.05"],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    seen = b""
    while seen.count(b"syscalls/s") < 3:
        seen += os.read(terminal, 65536)
    view.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # EIO: it is closed
        while data := os.read(terminal, 65536):
            seen += data
    os.close(terminal)
    assert view.wait(15) == 0
    assert b"Traceback" not in seen and b"program" in seen


def test_the_end_of_the_program_ends_the_view(watched, capsys):
    client = Client(watched.address)
    watched.stop()
    with pytest.raises(OSError):
        client.execute("query-version")
    client.close()
    assert call(watched.address) == 1


@pytest.mark.parametrize(
    "ns, text",
    [
        (0, "0ns"),
        (2048, "2.0us"),
        (15_000, "15us"),
        (1_500_000, "1.5ms"),
        (3_200_000_000, "3.2s"),
        (600e9, "10min"),
        (8e12, "2h"),
    ],
)
def test_durations(ns, text):
    assert figures.duration(ns) == text


@pytest.mark.parametrize(
    "number, text", [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (4_500_000, "4.5M"), (2e9, "2.0G")]
)
def test_counts(number, text):
    assert figures.count(number) == text


def test_histograms():
    assert figures.bars([0, 1, 1000, 500]) == " ▁█▄"
    assert figures.bars([0, 0]) == "  "
    assert figures.percentile([0, 0], 0.5) is None
    assert figures.percentile([99, 0, 1], 0.5) == 2048
    assert figures.percentile([98, 0, 2], 0.99) == 8192
