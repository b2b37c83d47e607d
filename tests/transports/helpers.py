"""What several of the transports' tests do with their peers."""

import asyncio
import socket
import struct


def read_exactly(peer, count):
    data = bytearray()
    while len(data) < count:
        chunk = peer.recv(1 << 20)
        assert chunk, f"end of stream after {len(data)} of {count} bytes"
        data += chunk
    return bytes(data)


def read_to_end(peer):
    data = bytearray()
    while chunk := peer.recv(1 << 20):
        data += chunk
    return bytes(data)


def in_executor(function, *args):
    return asyncio.get_running_loop().run_in_executor(None, function, *args)


def reset(sock):
    """Close so that the other side gets a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
