"""What a scanner of TLS servers tries: each comes to the same end as with the stdlib's loop on the same context.

"End" is what the client got, what the protocol was told, and what went to the exception handler. (asyncio tells nobody
of a handshake that fails, and sends no alert: the client sees the end of the connection.)
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import socket
import ssl
import subprocess
import sys

import pytest

import aioqemu_loop

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds
ENDED = "ended"
HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"  # the beginning of a ClientHello
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio's TLS is another up to 3.10")


def kind_of(exc):
    return None if exc is None else (type(exc).__name__, getattr(exc, "reason", None))


class Server(asyncio.Protocol):
    """Sends back what it gets."""

    def __init__(self, told):
        self.told = told

    def connection_made(self, transport):
        self.transport = transport
        ssl_object = transport.get_extra_info("ssl_object")
        self.told.append(("made", ssl_object.version(), ssl_object.selected_alpn_protocol(), ssl_object.session_reused))

    def data_received(self, data):
        self.told.append(("data", data))
        self.transport.write(data)

    def eof_received(self):
        self.told.append("eof")

    def connection_lost(self, exc):
        self.told.append(("lost", kind_of(exc)))


@pytest.fixture
def factory():
    """TLS knows nothing of what is under it; other tests run it on every backend."""
    return aioqemu_loop.new_event_loop


@pytest.fixture
def certificates(tmp_path):
    """make() -> (server context, client context), of a certificate that nobody else trusts."""
    pytest.importorskip("cryptography")
    from tools.certificates import localhost_tls

    count = iter(range(100))

    def make():
        folder = tmp_path / str(next(count))
        folder.mkdir()
        return (*localhost_tls(folder), folder / "both.pem")

    return make


def ending(factory, context, clients):
    """What comes of `clients`, one after the other: each is called in a thread with the server's address."""
    loop = factory()
    told, errors, results = [], [], []
    loop.set_exception_handler(lambda _, details: errors.append(kind_of(details.get("exception"))))

    async def main():
        server = await loop.create_server(lambda: Server(told), HOST, 0, ssl=context)
        for client in clients:
            before = len(told) + len(errors)
            results.append(await loop.run_in_executor(None, outcome, client, server.sockets[0].getsockname()))
            for _ in range(200):  # the server's side may be a little later
                if told[-1:] and told[-1][0] == "lost" and len(told) + len(errors) > before:
                    break
                await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()

    try:
        loop.run_until_complete(asyncio.wait_for(main(), 3 * PATIENCE))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return {"clients": results, "told": told, "errors": errors}


def outcome(client, address):
    try:
        return client(address)
    except (ConnectionError, ssl.SSLEOFError):  # which of them is a matter of time
        return ENDED
    except OSError as exc:
        return kind_of(exc)


def same_end(factory, context, *clients):
    """The end, on ours and the stdlib's; asserts that they are the same."""
    ours = ending(factory, context, clients)
    theirs = ending(asyncio.SelectorEventLoop, context, clients)
    assert ours == theirs
    return ours


def talk(context, address, *, session=None, name="localhost", kept=None):
    """A client as it should be: says something, hears it, and says goodbye."""
    with (
        socket.create_connection(address, PATIENCE) as sock,
        context.wrap_socket(sock, server_hostname=name, session=session[-1] if session else None) as tls,
    ):
        tls.sendall(b"hello")
        answer = tls.recv(100)
        if not answer:
            return ENDED
        result = answer, tls.version(), tls.selected_alpn_protocol(), tls.session_reused
        if kept is not None:
            kept.append(tls.session)
        with contextlib.suppress(OSError):
            tls.unwrap()
        return result


def raw(data, address):
    """A client that sends these bytes and hears what comes: the alert, or the end."""
    with socket.create_connection(address, PATIENCE) as sock:
        sock.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(1000):
                got += more
        return got


@pytest.mark.parametrize(
    ("theirs", "ours", "made"),
    [
        ("TLSv1_3", "TLSv1_2", "TLSv1.3"),
        ("TLSv1_2", "TLSv1_2", "TLSv1.2"),
        ("TLSv1_2", "TLSv1_3", None),
        ("TLSv1_1", "TLSv1_2", None),
        ("TLSv1", "TLSv1_2", None),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_versions(factory, certificates, theirs, ours, made):
    """`theirs`: the newest that the client offers; `ours`: the oldest that the server takes."""
    server, client, _ = certificates()
    server.minimum_version = getattr(ssl.TLSVersion, ours)
    client.minimum_version = client.maximum_version = getattr(ssl.TLSVersion, theirs)
    client.set_ciphers("ALL:@SECLEVEL=0")
    end = same_end(factory, server, functools.partial(talk, client))
    assert [told[1] for told in end["told"] if told[0] == "made"] == ([made] if made else [])
    assert not end["errors"]


def test_no_cipher_in_common(factory, certificates):
    server, client, _ = certificates()
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    end = same_end(factory, server, functools.partial(talk, client))
    assert end == {"clients": [ENDED], "told": [], "errors": []}


@pytest.mark.parametrize(("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["x"], None)])
def test_application_protocols(factory, certificates, offered, chosen):
    server, client, _ = certificates()
    server.set_alpn_protocols(["h2", "http/1.1"])
    client.set_alpn_protocols(offered)
    end = same_end(factory, server, functools.partial(talk, client))
    assert end["clients"][0][2] == chosen


class TestNames:
    """The server name that the client asks for (SNI)."""

    def test_another_context(self, factory, certificates):
        server, _, _ = certificates()
        other, client, _ = certificates()

        def choose(ssl_object, name, context):
            ssl_object.context = other

        server.sni_callback = choose
        end = same_end(factory, server, functools.partial(talk, client))
        assert end["clients"][0][0] == b"hello"

    def test_a_name_that_is_refused(self, factory, certificates):
        server, client, _ = certificates()
        server.sni_callback = lambda *_: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        end = same_end(factory, server, functools.partial(talk, client))
        assert end == {"clients": [ENDED], "told": [], "errors": []}

    def test_a_callback_that_raises(self, factory, certificates, monkeypatch):
        told = []
        monkeypatch.setattr("sys.unraisablehook", lambda it: told.append(it.exc_type))
        server, client, _ = certificates()
        server.sni_callback = lambda *_: 1 // 0
        end = same_end(factory, server, functools.partial(talk, client))
        assert end == {"clients": [ENDED], "told": [], "errors": []}
        assert told == [ZeroDivisionError] * 2

    def test_a_name_that_the_certificate_does_not_have(self, factory, certificates):
        server, client, _ = certificates()
        end = same_end(factory, server, functools.partial(talk, client, name="example.org"))
        assert end["clients"] == [("SSLCertVerificationError", "CERTIFICATE_VERIFY_FAILED")]
        assert not end["told"] or end["told"][-1] != ("data", b"hello")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_sessions_are_resumed(factory, certificates, version):
    server, client, _ = certificates()
    client.maximum_version = getattr(ssl.TLSVersion, version)

    for make in (factory, asyncio.SelectorEventLoop):
        kept = []
        first = functools.partial(talk, client, kept=kept)
        second = functools.partial(talk, client, session=kept)
        end = ending(make, server, [first, second, first])
        assert [result[3] for result in end["clients"]] == [False, True, False]
        assert [told[3] for told in end["told"] if told[0] == "made"] == [False, True, False]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("shown", ["none", "unknown", "right"])
def test_client_certificates(factory, certificates, version, shown):
    server, client, _ = certificates()
    _, _, known = certificates()
    _, _, unknown = certificates()
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(known)
    client.maximum_version = getattr(ssl.TLSVersion, version)
    if shown != "none":
        client.load_cert_chain(known if shown == "right" else unknown)
    end = same_end(factory, server, functools.partial(talk, client))
    assert bool(end["told"]) == (shown == "right")
    assert not end["errors"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),  # SSL 2
        b"\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + bytes(41),  # SSL 3
        b"\x16\x03\x01\xff\xff" + bytes(70_000),  # longer than a record may be
        b"\x16\x03\x01\x00\x00" * 100,  # empty records
        b"\x18\x03\x02\x00\x03\x01\x40\x00",  # a heartbeat that says it is longer
        b"\x17\x03\x03\x00\x20" + bytes(32),  # text before the handshake
        b"\x15\x03\x03\x00\x02\x01\x00",  # close_notify at once
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert
        HELLO,
        HELLO[:7],
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + bytes(100),  # a ClientHello of 16 MiB
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=lambda data: data[:11].hex() or "nothing",
)
def test_what_is_not_tls(factory, certificates, data):
    end = same_end(factory, certificates()[0], functools.partial(raw, data))
    assert not end["told"]


def cut_off(client, address, how):
    """After the handshake: the end without close_notify, or garbage."""
    with socket.create_connection(address, PATIENCE) as sock:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"hello")
        sock.sendall(outgoing.read())
        answer = b""
        while not answer:  # else asyncio loses a record, where the next one that has come is wrong
            incoming.write(sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = tls.read(100)
        tls.write(b"more")
        record = outgoing.read()
        sock.sendall({"truncated": record[:-3], "fin": b"", "changed": record[:-1] + bytes([record[-1] ^ 1])}[how])
        if how != "changed":
            sock.shutdown(socket.SHUT_WR)
        while more := sock.recv(65536):
            incoming.write(more)
        try:
            return answer, tls.read(100)
        except ssl.SSLError as exc:
            return answer, kind_of(exc)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("how", ["truncated", "fin", "changed"])
def test_a_connection_that_is_tampered_with(factory, certificates, version, how):
    server, client, _ = certificates()
    client.maximum_version = getattr(ssl.TLSVersion, version)
    end = same_end(factory, server, functools.partial(cut_off, client, how=how))
    assert ("data", b"more") not in end["told"]
    if how == "changed":
        assert end["told"][-1][1][0] == "SSLError"


def s_client(options, commands, address):
    """What the openssl program says of its connection."""
    program = ["openssl", "s_client", "-connect", f"{address[0]}:{address[1]}", *options]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with child:
        said = b""
        for command, answer in commands:
            child.stdin.write(command)
            child.stdin.flush()
            while answer not in said:
                more = child.stdout.read1()
                if not more:
                    return ENDED
                said += more
            said = said.partition(answer)[2]
        child.stdin.close()
        child.stdout.read()
    return "went on"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
@pytest.mark.parametrize(
    ("options", "commands", "result"),
    [
        (["-tls1_2"], [(b"hello\n", b"hello"), (b"R\n", b"never")], ENDED),  # no renegotiation
        (["-tls1_3"], [(b"hello\n", b"hello"), (b"K\n", b"KEYUPDATE"), (b"again\n", b"again")], "went on"),
        (["-tls1_3"], [(b"hello\n", b"hello"), (b"k\n", b"KEYUPDATE"), (b"again\n", b"again")], "went on"),
        (["-tls1_3", "-early_data", "/dev/null"], [(b"hello\n", b"hello")], "went on"),
        (["-tls1_2", "-cipher", "NULL:@SECLEVEL=0"], [(b"hello\n", b"hello")], ENDED),
    ],
    ids=["renegotiation", "key-update-of-both", "key-update", "early-data", "no-encryption"],
)
def test_the_openssl_program(factory, certificates, options, commands, result):
    server, _, _ = certificates()
    end = same_end(factory, server, functools.partial(s_client, options, commands))
    assert end["clients"] == [result]
