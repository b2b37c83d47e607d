"""Socket addresses, from the kernel's bytes to Python's and back, by the compiled functions themselves."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from typing import Any

from aioqemu_loop.system import sockaddr
from tests.fuzz.choices import Choices

STORAGE = 128  # bytes of a struct sockaddr_storage
# Behind it, so that reading or writing too far is seen.
GUARD = b"\xa5" * 64
FAMILIES = [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 0, 1, socket.AF_NETLINK, socket.AF_PACKET, 40, 65535]
SEEDS = [
    b"\x00\x10" + struct.pack("=H", socket.AF_INET) + b"\x1f\x90\x7f\x00\x00\x01" + bytes(8),
    b"\x00\x1c"
    + struct.pack("=H", socket.AF_INET6)
    + b"\x1f\x90"
    + bytes(4)
    + b"\xfe\x80"
    + bytes(13)
    + b"\x01"
    + b"\2\0\0\0",
    b"\x00\x0b" + struct.pack("=H", socket.AF_UNIX) + b"/tmp/sock",
    b"\x00\x0b" + struct.pack("=H", socket.AF_UNIX) + b"\0abstract",
    b"\x01\x00\x02\x09127.0.0.1",
    b"\x01\x01\x04\x1a2001:db8::ffff:192.168.10.1",
    b"\x02\x00\x0b\x0c\x01\x02",
]


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A `cdef` function that the module gives to other compiled modules."""
    capsule = sockaddr.__pyx_capi__[name]
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return ctypes.PYFUNCTYPE(result, *arguments)(pointer_of(capsule, name_of(capsule)))


address_to_python = function("address_to_python", ctypes.py_object, ctypes.c_void_p, ctypes.c_uint32)
address_from_python = function("address_from_python", ctypes.c_uint32, ctypes.py_object, ctypes.c_int, ctypes.c_void_p)


def expected(raw: bytes, size: int) -> Any:
    """What the socket module would say of these bytes."""
    family, port = struct.unpack_from("=H", raw)[0], struct.unpack_from("!H", raw, 2)[0]
    if size == 0:
        return None
    if family == socket.AF_INET:
        return socket.inet_ntop(family, raw[4:8]), port
    if family == socket.AF_INET6:
        return (
            socket.inet_ntop(family, raw[8:24]),
            port,
            *struct.unpack_from("!I", raw, 4),
            *struct.unpack_from("=I", raw, 24),
        )
    if family == socket.AF_UNIX:
        path = raw[2:size]
        return path if path[:1] == b"\0" else os.fsdecode(path.partition(b"\0")[0])
    return None


def from_the_kernel(choices: Choices) -> None:
    """Bytes of any kind, as long as the kernel may say they are."""
    size = choices.below(STORAGE + 1)
    given = choices.take(STORAGE)
    if choices.below(2):
        given = struct.pack("=H", choices.of(FAMILIES)) + given[2:]
    raw = given.ljust(STORAGE, b"\xee")
    memory = ctypes.create_string_buffer(raw + GUARD, STORAGE + len(GUARD))
    assert address_to_python(ctypes.addressof(memory), size) == expected(raw, size)
    assert memory.raw == raw + GUARD


def resolved(address: Any, family: int) -> Any:
    """The address as the socket module understands it, if that needs no look at a resolver; else None."""
    host = address[0]
    try:
        packed = socket.inet_pton(family, host)
    except (OSError, UnicodeError, ValueError, TypeError):
        return None
    rest = address[2:] + (0, 0)[len(address) - 2 :]
    return (socket.inet_ntop(family, packed), address[1], *(rest if family == socket.AF_INET6 else ()))


def to_the_kernel(address: Any, family: int) -> None:
    """What is converted comes back as it was; what is not is left to the socket module, without an exception."""
    memory = ctypes.create_string_buffer(b"\xee" * STORAGE + GUARD, STORAGE + len(GUARD))
    size = address_from_python(address, family, ctypes.addressof(memory))
    assert memory.raw[STORAGE:] == GUARD
    if size:
        assert size == {socket.AF_INET: 16, socket.AF_INET6: 28}[family]
        back = address_to_python(ctypes.addressof(memory), size)
        assert back == resolved(address, family), (back, address)
        assert memory.raw[size:STORAGE] == bytes(STORAGE - size)
    elif type(address) is tuple and len(address) == 2 and type(address[0]) is str and type(address[1]) is int:
        assert not 0 <= address[1] <= 0xFFFF or family not in (2, 10) or resolved(address, family) is None


def target(data: bytes) -> None:
    choices = Choices(data)
    kind = choices.below(3)
    if kind == 0:
        from_the_kernel(choices)
        return
    family = choices.of([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, -1])
    if kind == 1:
        count = choices.below(5)
        host = choices.take(choices.below(64)).decode("utf-8", "surrogateescape")
        address: Any = (host, *((choices.number() if choices.below(2) else choices.below(65536)) for _ in range(count)))
    else:
        address = choices.thing()
    to_the_kernel(address, family)
