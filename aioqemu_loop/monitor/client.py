"""A small QMP client, blocking, for the command line. Programs use the package qemu.qmp."""

from __future__ import annotations

import json
import socket
from typing import Any

from aioqemu_loop.monitor.address import Address, parse_address
from aioqemu_loop.monitor.errors import QMPError


class Client:
    """Connects and negotiates. Raises OSError, also where what answers is no QMP server, and ValueError for an address
    that a monitor cannot have. timeout: seconds that each step may take."""

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        place = parse_address(address)
        if isinstance(place, str):
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.settimeout(timeout)
            try:
                self._sock.connect(place)
            except BaseException:
                self._sock.close()
                raise
        else:
            self._sock = socket.create_connection(place, timeout)
        self._lines = self._sock.makefile("rb")
        self.events: list[dict[str, Any]] = []
        try:
            if "QMP" not in self._read():
                raise ConnectionError("it is no QMP server")
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lines.close()
        self._sock.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The command's answer. Events that come meanwhile go to `events`. Raises QMPError, OSError."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._sock.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._read()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QMPError(message["error"]["desc"], message["error"]["class"])
            else:
                return message["return"]

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the connection was closed by the monitor")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise ConnectionError("it is no QMP server")
        return message
