"""asyncssh: server and client on the same loop: commands, big data both ways, SFTP, forwarded ports, key exchange."""

import asyncio
import contextlib
import hashlib

import pytest

asyncssh = pytest.importorskip("asyncssh")


class Server(asyncssh.SSHServer):
    """Lets tester in by a key or a password, and forwards ports."""

    def connection_requested(self, *_):
        return True

    def server_requested(self, *_):
        return True

    def begin_auth(self, _):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == ("tester", "secret")


class Serving:
    def __init__(self, assert_ours, folder):
        self.assert_ours = assert_ours
        self.folder = folder
        self.entered = asyncio.Event()  # a client waits for ever
        self.left = asyncio.Event()  # it has gone

    async def process(self, process):
        """What a command does."""
        self.assert_ours()
        name, *arguments = process.command.split()
        try:
            status = await getattr(self, name)(process, *arguments)
            process.exit(status or 0)
        except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged, ConnectionError):
            process.exit(1)

    async def cat(self, process):
        while data := await process.stdin.read(65536):
            process.stdout.write(data)
            await process.stdout.drain()

    async def digest(self, process):
        digest = hashlib.sha256()
        while data := await process.stdin.read(65536):
            digest.update(data)
        process.stdout.write(digest.digest())

    async def status(self, process, number):
        process.stderr.write(b"as you wish")
        return int(number)

    async def wait(self, process):
        self.entered.set()
        try:
            await process.stdin.read()
        finally:
            self.left.set()

    async def __aenter__(self):
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        authorized = asyncssh.import_authorized_keys(self.key.export_public_key().decode())
        self.server = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[self.host_key],
            authorized_client_keys=authorized,
            process_factory=self.process,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(self.folder)),
            encoding=None,
        )
        self.port = self.server.get_port()
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    def connect(self, **options):
        """Everything is given, so that nothing of the user's own ~/.ssh is looked at."""
        known = asyncssh.import_known_hosts(f"[127.0.0.1]:{self.port} {self.host_key.export_public_key().decode()}")
        defaults = {"username": "tester", "client_keys": [self.key], "known_hosts": known}
        fixed = {"config": None, "agent_path": None, "encoding": None}
        return asyncssh.connect("127.0.0.1", self.port, **{**defaults, **fixed, **options})


@pytest.fixture
def serving(assert_ours, tmp_path):
    """async with serving() as running: an SSH server and a client for it."""
    return lambda: Serving(assert_ours, tmp_path)


def test_many_commands_on_many_connections(run, serving):
    async def main():
        async with serving() as running:

            async def client(number):
                async with running.connect() as connection:

                    async def command(i):
                        result = await connection.run("cat", input=f"{number}: {i}".encode() * 50)
                        assert (result.stdout, result.exit_status) == (f"{number}: {i}".encode() * 50, 0)

                    await asyncio.gather(*map(command, range(20)))

            await asyncio.gather(*map(client, range(5)))

    run(main())


def test_big_data_both_ways(run, serving, big):
    async def main():
        async with serving() as running, running.connect() as connection:
            data = big[:4_000_000]
            digest = hashlib.sha256(data).digest()
            assert (await connection.run("digest", input=data)).stdout == digest
            result = await connection.run("cat", input=data)
            assert hashlib.sha256(result.stdout).digest() == digest

    run(main())


def test_exit_status_and_standard_error(run, serving):
    async def main():
        async with serving() as running, running.connect() as connection:
            for number in range(10):
                result = await connection.run(f"status {number}")
                assert (result.exit_status, result.stderr) == (number, b"as you wish")

    run(main())


def test_password_and_its_refusal(run, serving):
    async def main():
        async with serving() as running:
            async with running.connect(client_keys=None, password="secret") as connection:
                assert (await connection.run("cat", input=b"in")).stdout == b"in"
            with pytest.raises(asyncssh.PermissionDenied):
                await running.connect(client_keys=None, password="guessed")
            with pytest.raises(asyncssh.HostKeyNotVerifiable):
                await running.connect(known_hosts=([], [], []))

    run(main())


def test_sftp(run, serving, big, tmp_path):
    async def main():
        async with serving() as running, running.connect() as connection, connection.start_sftp_client() as sftp:
            data = big[:2_000_000]
            async with sftp.open("/file", "wb") as file:
                await file.write(data)
            assert (tmp_path / "file").read_bytes() == data
            await sftp.get("/file", str(tmp_path / "copy"))
            assert (tmp_path / "copy").read_bytes() == data
            await asyncio.gather(*(sftp.mkdir(f"/folder {i}") for i in range(20)))
            names = {name for name in await sftp.listdir("/") if name.startswith("folder")}
            assert names == {f"folder {i}" for i in range(20)}
            with pytest.raises(asyncssh.SFTPNoSuchFile):
                await sftp.stat("/nothing")

    run(main())


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("way", ["local", "remote"])
def test_forwarded_ports(run, serving, big, way):
    async def talk(port, data):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def send():
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert hashlib.sha256(await reader.read()).digest() == hashlib.sha256(data).digest()
        await sending
        writer.close()
        await writer.wait_closed()

    async def main():
        target = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = target.sockets[0].getsockname()[1]
        async with serving() as running, target, running.connect() as connection:
            forward = connection.forward_local_port if way == "local" else connection.forward_remote_port
            listener = await forward("127.0.0.1", 0, "127.0.0.1", port)
            pieces = [big[i * 300_000 : (i + 1) * 300_000] for i in range(5)]
            await asyncio.gather(*(talk(listener.get_port(), piece) for piece in pieces))
            listener.close()
            await listener.wait_closed()

    run(main())


def test_keys_are_exchanged_again_in_the_middle(run, serving, big):
    async def main():
        async with serving() as running, running.connect(rekey_bytes=100_000) as connection:
            data = big[:1_000_000]
            result = await connection.run("cat", input=data)
            assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()

    run(main())


@pytest.mark.parametrize("how", ["cancel", "abort"])
def test_a_client_goes_away(run, serving, how):
    async def main():
        async with serving() as running:
            for _ in range(3):
                running.entered.clear()
                running.left.clear()
                async with running.connect() as connection:
                    command = asyncio.create_task(connection.run("wait"))
                    await running.entered.wait()
                    if how == "cancel":
                        command.cancel()
                    else:
                        connection.abort()
                    with contextlib.suppress(asyncio.CancelledError, asyncssh.Error):
                        await command
                await running.left.wait()

    run(main())
