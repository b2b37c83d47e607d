"""QMP itself, byte by byte, over a bare socket."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest

from aioqemu_loop.monitor.parser import MAX_NESTING, MAX_TEXT


class Wire:
    """A connection, and what comes over it."""

    def __init__(self, address, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(15)
        self.sock.connect(address)
        self.file = self.sock.makefile("rb")
        self.greeting = self.receive()
        if negotiate:
            assert self.ask(b'{"execute": "qmp_capabilities"}') == {"return": {}}

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def ask(self, data):
        self.sock.sendall(data + b"\n")
        return self.receive()

    def error(self, data):
        """(class, desc)"""
        answer = self.ask(data)
        assert set(answer) == {"error"}, answer
        return answer["error"]["class"], answer["error"]["desc"]

    def close(self):
        self.file.close()
        self.sock.close()


@pytest.fixture
def connect(watched):
    made = []

    def connect(negotiate=True):
        made.append(Wire(watched.address, negotiate))
        return made[-1]

    yield connect
    for wire in made:
        wire.close()


@pytest.fixture
def wire(connect):
    return connect()


def test_greeting_and_negotiation(connect):
    wire = connect(negotiate=False)
    assert set(wire.greeting) == {"QMP"}
    assert set(wire.greeting["QMP"]["version"]) == {"qemu", "package"}
    assert wire.greeting["QMP"]["capabilities"] == []
    not_yet = ("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
    assert wire.error(b'{"execute": "query-version"}') == not_yet
    assert wire.error(b'{"execute": "nix"}') == not_yet
    assert wire.error(b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}') == (
        "GenericError",
        'Capability "oob" is not offered',
    )
    assert wire.ask(b'{"execute": "qmp_capabilities", "arguments": {"enable": []}}') == {"return": {}}
    assert wire.error(b'{"execute": "qmp_capabilities"}') == (
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
    )


@pytest.mark.parametrize("id", ["x", 7, None, {"a": [1, 2.5]}, [], 2**64 - 1, "\udc80\u00e4"])
def test_the_id_comes_back(wire, id):
    request = {"execute": "query-version", "id": id}
    assert wire.ask(json.dumps(request).encode())["id"] == id
    assert wire.ask(json.dumps({**request, "execute": "nix"}).encode())["id"] == id
    assert wire.ask(json.dumps({**request, "execute": "query-loops"}).encode())["id"] == id
    assert wire.ask(json.dumps({"id": id}).encode())["error"]["desc"] == "QMP input lacks member 'execute'"


@pytest.mark.parametrize(
    "request_text, error",
    [
        (b"[]", "QMP input must be a JSON object"),
        (b"42", "QMP input must be a JSON object"),
        (b'"execute"', "QMP input must be a JSON object"),
        (b"{}", "QMP input lacks member 'execute'"),
        (b'{"execute": 1}', "QMP input member 'execute' must be a string"),
        (b'{"execute": "query-version", "arguments": []}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "query-version", "arguments": null}', "QMP input member 'arguments' must be an object"),
        (b'{"execute": "query-version", "extra": 1}', "QMP input member 'extra' is unexpected"),
        (b'{"exec-oob": "query-version"}', "QMP input member 'exec-oob' is unexpected"),
        (b'{"execute": "query-version", "arguments": {"a": 1}}', "Parameter 'a' is unexpected"),
        (b'{"execute": "task-cancel", "arguments": {}}', "Parameter 'loop' is missing"),
        (b"nonsense", "Invalid JSON syntax"),
        (b'{"execute": }', "Invalid JSON syntax"),
        (b'{"execute": "query-version"]', "Invalid JSON syntax"),
        (b'{"execute": "x", "execute": "x"}', "Invalid JSON syntax, duplicate key"),
    ],
)
def test_errors_and_the_session_lives_on(wire, request_text, error):
    assert wire.error(request_text) == ("GenericError", error)
    assert "return" in wire.ask(b'{"execute": "query-version"}')


def test_unknown_command(wire):
    assert wire.error(b'{"execute": "nix"}') == ("CommandNotFound", "The command nix has not been found")


def test_an_unfinished_string_ends_with_its_line(wire):
    assert wire.error(b'{"execute": "query-ver') == ("GenericError", "Invalid JSON syntax")
    assert "return" in wire.ask(b'{"execute": "query-version"}')


def test_several_in_a_line_are_answered_in_order(wire):
    wire.sock.sendall(
        b'{"execute": "query-version", "id": 1}{"execute": "query-fdmon", "id": 2} {"execute": "x", "id": 3}'
    )
    assert [wire.receive()["id"] for _ in range(3)] == [1, 2, 3]


def test_one_over_several_packets(wire):
    for piece in (b'{"exec', b'ute":\n', b'"query-version"', b"\n}"):
        wire.sock.sendall(piece)
    assert "return" in wire.receive()


@pytest.mark.parametrize("data", [b'{"a": "' + b"x" * MAX_TEXT, b"[" * (MAX_NESTING + 1)])
def test_too_much_ends_the_connection_with_an_error(wire, connect, data):
    wire.sock.sendall(data)
    assert wire.receive()["error"]["class"] == "GenericError"
    with contextlib.suppress(ConnectionResetError):
        assert wire.receive() is None
    assert "return" in connect().ask(b'{"execute": "query-version"}')


def test_a_command_that_fails_inside_is_an_error(wire, monkeypatch):
    def fail():
        raise KeyError("inside")

    monkeypatch.setattr("aioqemu_loop.monitor.commands.about.version_info", fail)
    assert wire.error(b'{"execute": "query-version"}') == ("GenericError", "internal error: KeyError: 'inside'")


def test_half_closed_clients_get_their_answers(wire):
    wire.sock.sendall(b'{"execute": "query-version"}')
    wire.sock.shutdown(socket.SHUT_WR)
    assert "return" in wire.receive()
    assert wire.receive() is None


def test_lists_are_encoded_as_json_is(wire):
    answer = wire.ask(b'{"execute": "query-commands", "id": "a"}')
    assert answer["id"] == "a" and len(answer["return"]) > 10
    assert wire.ask(b'{"execute": "query-commands"}') == {"return": answer["return"]}
