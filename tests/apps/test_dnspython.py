"""dnspython's asyncio resolver against a small DNS server on the same loop: real datagrams, TCP and TLS."""

import asyncio
import contextlib
import hashlib
import struct

import pytest

pytest.importorskip("dns")
asyncquery = pytest.importorskip("dns.asyncquery")
asyncresolver = pytest.importorskip("dns.asyncresolver")
exception = pytest.importorskip("dns.exception")
flags = pytest.importorskip("dns.flags")
message = pytest.importorskip("dns.message")
rcode = pytest.importorskip("dns.rcode")
resolver = pytest.importorskip("dns.resolver")
rrset = pytest.importorskip("dns.rrset")


class Zone:
    """Answers questions; some names are answered in a way of their own."""

    def __init__(self, assert_ours):
        self.assert_ours = assert_ours
        self.questions = []  # (transport, name)

    def answer(self, wire, over):
        """The answer's bytes, or None for silence."""
        self.assert_ours()
        query = message.from_wire(wire)
        (question,) = query.question
        name = question.name.to_text()
        self.questions.append((over, name))
        answer = message.make_response(query)
        kind, number = name.split(".")[:2]
        if kind == "nothing":
            answer.set_rcode(rcode.NXDOMAIN)
        elif kind == "silent" or (kind == "lossy" and over == "udp" and self.times("udp", name) < 3):
            return None
        elif kind == "big" and over == "udp":
            answer.flags |= flags.TC
        elif kind == "big":
            texts = (f'"{number} {i} {"x" * 200}"' for i in range(200))
            answer.answer.append(rrset.from_text(question.name, 60, "IN", "TXT", *texts))
        else:
            answer.answer.append(rrset.from_text(question.name, 60, "IN", "A", f"10.0.{int(number) % 256}.1"))
        return answer.to_wire(max_size=65535)

    def times(self, over, name):
        return self.questions.count((over, name))


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone):
        self.zone = zone
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if answer := self.zone.answer(data, "udp"):
            if data.find(b"\x05spoof") >= 0:
                self.transport.sendto(bytes([data[0] ^ 1]) + answer[1:], address)  # another question's id
            self.transport.sendto(answer, address)

    def connection_lost(self, exc):
        self.lost.set()


@pytest.fixture
def serving(assert_ours, tls):
    """async with serving() as (zone, port, tls_port)."""

    @contextlib.asynccontextmanager
    async def serving():
        zone, conversations = Zone(assert_ours), set()

        async def connected(reader, writer):
            conversations.add(asyncio.current_task())
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    if answer := zone.answer(await reader.readexactly(size), "tcp"):
                        writer.write(struct.pack("!H", len(answer)) + answer)
                        await writer.drain()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        loop = asyncio.get_running_loop()
        tcp = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        encrypted = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls.server())
        transport, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(zone), ("127.0.0.1", port))
        async with tcp, encrypted:
            yield zone, port, encrypted.sockets[0].getsockname()[1]
        transport.close()
        await asyncio.gather(protocol.lost.wait(), *conversations)

    return serving


def resolver_of(port, **options):
    made = asyncresolver.Resolver(configure=False)
    made.nameservers, made.port = ["127.0.0.1"], port
    for key, value in options.items():
        setattr(made, key, value)
    return made


def test_many_questions_at_once(run, serving):
    async def main():
        async with serving() as (zone, port, _):
            asked = resolver_of(port)

            async def worker(number):
                for i in range(number, 300, 30):
                    answer = await asked.resolve(f"plain.{i}.test.", "A")
                    assert [record.address for record in answer] == [f"10.0.{i % 256}.1"]

            await asyncio.gather(*map(worker, range(30)))
            assert {over for over, _ in zone.questions} == {"udp"}

    run(main())


def test_truncated_answers_come_again_over_tcp(run, serving):
    async def main():
        async with serving() as (zone, port, _):
            asked = resolver_of(port)
            for i in range(20):
                answer = await asked.resolve(f"big.{i}.test.", "TXT")
                texts = sorted(record.strings[0] for record in answer)
                assert texts == sorted(f"{i} {n} {'x' * 200}".encode() for n in range(200))
            assert zone.times("udp", "big.7.test.") == zone.times("tcp", "big.7.test.") == 1

    run(main())


def test_lost_datagrams_are_sent_again(run, serving):
    async def main():
        async with serving() as (zone, port, _):
            asked = resolver_of(port, timeout=0.05, lifetime=20)
            answers = await asyncio.gather(*(asked.resolve(f"lossy.{i}.test.", "A") for i in range(20)))
            assert [answer[0].address for answer in answers] == [f"10.0.{i}.1" for i in range(20)]
            assert all(zone.times("udp", f"lossy.{i}.test.") >= 3 for i in range(20))

    run(main())


def test_answers_to_other_questions_are_passed_over(run, serving):
    async def main():
        async with serving() as (_, port, _):
            for i in range(20):
                query = message.make_query(f"spoof.{i}.test.", "A")
                answer = await asyncquery.udp(query, "127.0.0.1", port=port, timeout=20, ignore_errors=True)
                assert answer.id == query.id
                assert answer.answer[0][0].address == f"10.0.{i}.1"

    run(main())


def test_no_such_name_and_no_answer(run, serving):
    async def main():
        async with serving() as (_, port, _):
            with pytest.raises(resolver.NXDOMAIN):
                await resolver_of(port).resolve("nothing.1.test.", "A")
            with pytest.raises(exception.Timeout):
                await resolver_of(port, timeout=0.02, lifetime=0.1).resolve("silent.1.test.", "A")
            with pytest.raises(exception.Timeout):
                await asyncquery.tcp(message.make_query("silent.2.test.", "A"), "127.0.0.1", port=port, timeout=0.05)

    run(main())


def test_a_question_is_cancelled(run, serving):
    async def main():
        async with serving() as (zone, port, _):
            for i in range(10):
                question = asyncio.create_task(resolver_of(port).resolve(f"silent.{i}.test.", "A"))
                while not zone.times("udp", f"silent.{i}.test."):
                    await asyncio.sleep(0)
                question.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await question
                assert (await resolver_of(port).resolve(f"plain.{i}.test.", "A"))[0].address == f"10.0.{i}.1"

    run(main())


@pytest.mark.parametrize("over", ["tcp", "tls"])
def test_streams(run, serving, tls, over):
    async def main():
        async with serving() as (_, port, tls_port):

            async def ask(i):
                query = message.make_query(f"big.{i}.test.", "TXT")
                if over == "tcp":
                    answer = await asyncquery.tcp(query, "127.0.0.1", port=port, timeout=20)
                else:
                    options = {"port": tls_port, "timeout": 20, "ssl_context": tls.client()}
                    answer = await asyncquery.tls(query, "127.0.0.1", server_hostname="localhost", **options)
                digest = hashlib.sha256(b"".join(sorted(record.strings[0] for record in answer.answer[0])))
                expected = sorted(f"{i} {n} {'x' * 200}".encode() for n in range(200))
                assert digest.digest() == hashlib.sha256(b"".join(expected)).digest()

            await asyncio.gather(*map(ask, range(15)))

    run(main())
