"""Just enough of an HTTP/1.1 server for the fakes: what they cost must not be what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

Handler = Callable[["ServerConnection", str, str, bytes], None]
"""Called with the connection, method, path and body of each request."""


class ServerConnection(asyncio.Protocol):
    """One connection: requests with a Content-Length, one at a time."""

    def __init__(self, handler: Handler, lost: Callable[[ServerConnection], None] | None = None) -> None:
        self._handler = handler
        self._lost = lost
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._lost is not None:
            self._lost(self)

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hand on each request that is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            whole = end + 4 + _length(head)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            self._handler(self, method, path, body)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._transport.write(data)

    def answer(self, status: int, content: Mapping[str, Any]) -> None:
        """Send a whole answer."""
        body = msgspec.json.encode(content)
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
