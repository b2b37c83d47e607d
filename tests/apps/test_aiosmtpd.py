"""aiosmtpd's SMTP protocol as a server on our loop, with STARTTLS; smtplib in threads and raw streams as clients."""

import asyncio
import contextlib
import hashlib
import smtplib

import pytest

smtp = pytest.importorskip("aiosmtpd.smtp")

LIMIT = 2**25


class Handler:
    """Keeps the messages."""

    def __init__(self, assert_ours):
        self.assert_ours = assert_ours
        self.messages = {}  # recipient -> content

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.assert_ours()
        if address.startswith("nobody"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        for recipient in envelope.rcpt_tos:
            self.messages[recipient] = envelope.content
        return "250 kept"


@pytest.fixture(params=["plain", "starttls", "tls"])
def serving(request, assert_ours, tls):
    """async with serving() as (handler, client): client() is a connected smtplib client, for a thread."""

    @contextlib.asynccontextmanager
    async def serving():
        loop = asyncio.get_running_loop()
        handler = Handler(assert_ours)
        options = {"data_size_limit": LIMIT, "hostname": "localhost", "loop": loop}
        if request.param == "starttls":
            options |= {"tls_context": tls.server(), "require_starttls": True}
        context = tls.server() if request.param == "tls" else None
        server = await loop.create_server(lambda: smtp.SMTP(handler, **options), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]

        def client():
            if request.param == "tls":
                return smtplib.SMTP_SSL("localhost", port, timeout=20, context=tls.client())
            client = smtplib.SMTP("localhost", port, timeout=20)
            if request.param == "starttls":
                client.starttls(context=tls.client())
            return client

        async with server:
            yield handler, client

    return serving


def message_of(number):
    """With lines of a dot, which are escaped on the wire."""
    return "".join(f".{number} line {i}\r\n.\r\n" for i in range(number)) + "end\r\n"


def test_messages_from_many_clients(run, serving):
    async def main():
        async with serving() as (handler, connect):

            def send(number):
                with connect() as client:
                    for i in range(10):
                        client.sendmail("a@localhost", [f"{number}.{i}@localhost"], message_of(number + i))

            await asyncio.gather(*(asyncio.to_thread(send, number) for number in range(10)))
            expected = {f"{n}.{i}@localhost": message_of(n + i).encode() for n in range(10) for i in range(10)}
            assert handler.messages == expected

    run(main())


def test_a_big_message(run, serving, big):
    text = "\r\n".join(big[start : start + 400].hex() for start in range(0, 3_000_000, 400)) + "\r\n"

    async def main():
        async with serving() as (handler, connect):

            def send():
                with connect() as client:
                    client.sendmail("a@localhost", ["b@localhost"], text)

            await asyncio.to_thread(send)
            got = handler.messages["b@localhost"]
            assert hashlib.sha256(got).digest() == hashlib.sha256(text.encode()).digest()

    run(main())


def test_refused_recipients(run, serving):
    async def main():
        async with serving() as (handler, connect):

            def send():
                with connect() as client:
                    refused = client.sendmail("a@localhost", ["b@localhost", "nobody@localhost"], "text\r\n")
                    assert refused == {"nobody@localhost": (550, b"no such user")}
                    with pytest.raises(smtplib.SMTPRecipientsRefused):
                        client.sendmail("a@localhost", ["nobody@localhost"], "text\r\n")

            await asyncio.to_thread(send)
            assert list(handler.messages) == ["b@localhost"]

    run(main())


def test_clients_that_vanish(run, serving):
    async def main():
        async with serving() as (handler, connect):

            def vanish():
                client = connect()
                client.ehlo()
                client.mail("a@localhost")
                client.rcpt("b@localhost")
                client.putcmd("data")
                assert client.getreply()[0] == 354
                client.send(b"only the beginning\r\n")
                client.close()

            def send():
                with connect() as client:
                    client.sendmail("a@localhost", ["c@localhost"], "whole\r\n")

            for _ in range(5):
                await asyncio.to_thread(vanish)
                await asyncio.to_thread(send)
            assert handler.messages == {"c@localhost": b"whole\r\n"}

    run(main())


def test_pipelined_commands(run, assert_ours):
    async def main():
        loop = asyncio.get_running_loop()
        handler = Handler(assert_ours)
        factory = lambda: smtp.SMTP(handler, hostname="localhost", loop=loop)  # noqa: E731
        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"HELO me\r\n")
            for i in range(100):
                writer.write(b"MAIL FROM:<a@localhost>\r\nRCPT TO:<%d@localhost>\r\nDATA\r\n%d\r\n.\r\n" % (i, i))
            writer.write(b"QUIT\r\n")
            answers = (await reader.read()).splitlines()
            assert [answer[:3] for answer in answers] == [
                b"220",
                b"250",
                *[b"250", b"250", b"354", b"250"] * 100,
                b"221",
            ]
            writer.close()
            await writer.wait_closed()
        assert handler.messages == {f"{i}@localhost": b"%d\r\n" % i for i in range(100)}

    run(main())
