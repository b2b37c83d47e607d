"""TLS with peers that are not asyncio: the blocking ssl module in a thread, and the openssl program."""

import asyncio
import contextlib
import hashlib
import random
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

HOST = "127.0.0.1"
PATIENCE = 15.0


class Peer:
    """A blocking TLS server on the other end of a socket, in a thread: talk(sock) is called after the handshake."""

    def __init__(self, context, talk):
        ours, theirs = socket.socketpair()
        self.ours = ours
        self.error = None
        ours.setblocking(False)
        theirs.settimeout(PATIENCE)
        self.thread = threading.Thread(target=self.run, args=(context, theirs, talk))
        self.thread.start()

    def run(self, context, theirs, talk):
        try:
            with context.wrap_socket(theirs, server_side=True) as sock:
                talk(sock)
        except Exception as exc:
            self.error = exc

    async def connect(self, protocol, context, **options):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: protocol, sock=self.ours, ssl=context, server_hostname="localhost", **options
        )
        return transport

    async def done(self):
        await asyncio.get_running_loop().run_in_executor(None, self.thread.join, PATIENCE)
        assert not self.thread.is_alive()
        assert self.error is None, self.error


def version_of(context, version):
    """A copy of a context for one version of TLS only."""
    context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def contexts(request, tmp_path):
    """(server context, client context) for one version of TLS, with a certificate of their own."""
    pytest.importorskip("cryptography")
    from tools.certificates import localhost_tls

    version = getattr(ssl.TLSVersion, request.param)
    return tuple(version_of(context, version) for context in localhost_tls(tmp_path))


class Flood:
    """Writes pieces of random sizes as long as it may, pauses reading now and then, and hashes what comes."""

    def flood(self, total, seed):
        self.random = random.Random(seed)
        self.left = total
        self.sent, self.got, self.count = hashlib.sha256(), hashlib.sha256(), 0
        self.lost = asyncio.get_running_loop().create_future()
        self.enough = asyncio.get_running_loop().create_future()
        self.want = total
        self.may_write = True

    def connection_made(self, transport):
        self.transport = transport
        asyncio.get_running_loop().call_soon(self.pour)

    def pour(self):
        for _ in range(self.random.randrange(1, 8)):
            if not self.may_write or not self.left:
                return
            size = min(self.left, self.random.choice([1, 100, 5_000, 16_384, 70_000, 300_000]))
            piece = self.random.randbytes(size)
            self.left -= size
            self.sent.update(piece)
            if size == 100:
                piece = bytearray(piece)
                self.transport.write(piece)
                piece[:] = bytes(100)  # it was copied
            elif self.random.random() < 0.2:
                self.transport.writelines([piece[: size // 2], memoryview(piece)[size // 2 :]])
            else:
                self.transport.write(piece)
        asyncio.get_running_loop().call_soon(self.pour)

    def pause_writing(self):
        self.may_write = False

    def resume_writing(self):
        self.may_write = True
        self.pour()

    def took(self, data):
        self.got.update(data)
        self.count += len(data)
        if self.random.random() < 0.2 and self.transport.is_reading():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.random.choice([0, 0.001]), self.transport.resume_reading)
        if self.count >= self.want and not self.enough.done():
            self.enough.set_result(None)

    def eof_received(self):
        pass

    def connection_lost(self, exc):
        self.lost.set_result(exc)


class PlainFlood(Flood, asyncio.Protocol):
    def data_received(self, data):
        self.took(data)


class BufferedFlood(Flood, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.random.choice([100, 16_384, 100_000]))
        return memoryview(self.buffer)  # of a bytearray asyncio's SSLProtocol fills copies

    def buffer_updated(self, count):
        self.took(self.buffer[:count])


@pytest.mark.parametrize("kind", [PlainFlood, BufferedFlood])
def test_a_flood_both_ways_comes_through_whole(run, new_sslproto, contexts, kind):
    total = 3_000_000
    seed = random.randrange(1 << 30)
    sums = {}

    def talk(sock):
        rng = random.Random(seed + 1)
        sent, got = hashlib.sha256(), hashlib.sha256()

        left = total
        sender = rng.choice([0.3, 0.7])
        to_send = total
        while left or to_send:
            if to_send and (not left or rng.random() < sender):
                piece = rng.randbytes(min(to_send, rng.choice([1, 1_000, 20_000])))
                to_send -= len(piece)
                sent.update(piece)
                sock.sendall(piece)
            else:
                piece = sock.recv(65536)
                assert piece, "ended early"
                left -= len(piece)
                got.update(piece)
        sums.update(sent=sent.digest(), got=got.digest())
        assert sock.recv(1) == b""

    async def main():
        protocol = kind()
        protocol.flood(total, seed)
        peer = Peer(contexts[0], talk)
        transport = await peer.connect(protocol, contexts[1])
        await asyncio.wait_for(protocol.enough, 2 * PATIENCE)
        while protocol.left or transport.get_write_buffer_size():
            await asyncio.sleep(0.001)
        transport.close()
        await peer.done()
        await protocol.lost
        assert protocol.count == total
        assert sums == {"sent": protocol.got.digest(), "got": protocol.sent.digest()}, f"seed {seed}"

    run(main())


def test_close_sends_everything_and_says_goodbye(run, new_sslproto, contexts, recorder):
    blob = random.randbytes(5_000_000)
    seen = []

    def talk(sock):
        data = bytearray()
        while piece := sock.recv(65536):  # raises for an end without close_notify
            data += piece
        seen.append(bytes(data) == blob)
        with contextlib.suppress(OSError):
            sock.unwrap()

    async def main():
        protocol = recorder()
        peer = Peer(contexts[0], talk)
        transport = await peer.connect(protocol, contexts[1])
        transport.write(blob)
        transport.close()
        assert transport.is_closing()
        transport.write(b"dropped")
        await protocol.until_lost()
        await peer.done()
        assert seen == [True]
        assert protocol.lost is None

    run(main())


@pytest.mark.parametrize("way", ["close_notify", "eof"])
def test_the_peer_ends(run, new_sslproto, contexts, recorder, way, caplog):
    def talk(sock):
        sock.sendall(b"last words")
        if way == "close_notify":
            with contextlib.suppress(OSError):
                sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_RDWR)

    async def main():
        protocol = recorder(eof_received=lambda _: True)
        peer = Peer(contexts[0], talk)
        await peer.connect(protocol, contexts[1])
        await protocol.until_lost()
        await peer.done()
        assert protocol.data == b"last words"
        assert protocol.names == ["connection_made", "eof_received", "connection_lost"]
        assert protocol.lost is None
        assert protocol.transport.is_closing()
        assert "returning true from eof_received() has no effect when using ssl" in caplog.text

    run(main())


def test_the_peer_breaks_off(run, new_sslproto, contexts, recorder):
    """is_closing() is True before connection_lost() comes, on ours and from 3.14 on."""
    go = threading.Event()

    def talk(sock):
        go.wait(PATIENCE)
        sock.recv(1)  # what is left unread makes it a reset

    async def main():
        protocol = recorder()
        peer = Peer(contexts[0], talk)
        transport = await peer.connect(protocol, contexts[1])
        transport.write(bytes(100_000))
        go.set()
        await peer.done()
        for _ in range(100):
            transport.write(b"more")
            if transport.is_closing():
                break
            await asyncio.sleep(0.01)
        assert transport.is_closing()
        await protocol.until_lost()
        assert protocol.lost is None or isinstance(protocol.lost, OSError)

    run(main())


def test_post_handshake_authentication(run, new_sslproto, tls, tmp_path, recorder):
    """TLS 1.3: the server asks for a certificate in the middle, and reading has to answer."""
    from tools.certificates import localhost_tls

    server, client = (version_of(context, ssl.TLSVersion.TLSv1_3) for context in localhost_tls(tmp_path))
    server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_OPTIONAL
    client.post_handshake_auth = True

    def talk(sock):
        assert sock.recv(10) == b"before"
        sock.verify_client_post_handshake()
        sock.sendall(b"between")
        assert sock.recv(10) == b"after"
        sock.sendall(b"end")
        assert sock.recv(1) == b""

    async def main():
        protocol = recorder()
        peer = Peer(server, talk)
        transport = await peer.connect(protocol, client)
        transport.write(b"before")
        await protocol.until(lambda: protocol.data == b"between")
        transport.write(b"after")
        await protocol.until(lambda: protocol.data == b"betweenend")
        transport.close()
        await protocol.until_lost()
        await peer.done()

    run(main())


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program")


async def read_until(stream, wanted):
    data = b""
    while wanted not in data:
        piece = await asyncio.wait_for(stream.read(1000), PATIENCE)
        assert piece, data
        data += piece
    return data


async def echo(reader, writer):
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@needs_openssl
def test_openssl_changes_its_keys(run, tls):
    """s_client's command K: a key update of TLS 1.3 that asks for one in return."""

    async def main():
        server = await asyncio.start_server(echo, HOST, 0, ssl=tls[0])
        port = server.sockets[0].getsockname()[1]
        arguments = ["s_client", "-connect", f"{HOST}:{port}", "-tls1_3"]
        client = await asyncio.create_subprocess_exec(
            "openssl", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        await read_until(client.stdout, b"Verify return code")
        for i in range(5):
            client.stdin.write(b"message %d\n" % i)
            await read_until(client.stdout, b"message %d\n" % i)
            client.stdin.write(b"K\n")
            await read_until(client.stdout, b"KEYUPDATE")
        client.stdin.write(b"Q\n")
        client.stdin.close()
        await read_until(client.stdout, b"DONE")
        await client.stdout.read()
        await client.wait()
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)

    run(main())
