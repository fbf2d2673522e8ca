"""One kept-alive connection, which brings one prepared request at a time and hands on what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httptools


class Receiver(Protocol):
    """Takes an answer as it comes, on the loop: `head`, any number of `body`, then `end`; or `lost` at any time."""

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status and the headers, names in lower case."""
        ...

    def body(self, data: bytes) -> None:
        """Take what one network read brought of the body."""
        ...

    def end(self) -> None:
        """The answer is complete."""
        ...

    def lost(self, reason: str) -> None:
        """Nothing more comes: the connection has ended, or what came is not HTTP. `reason` quotes nothing."""
        ...


class HttpConnection(asyncio.Protocol):
    """The client's side. One that was `used` before may just be being closed by the server.

    `free` is told when another request may follow, `gone` when the connection has ended.
    """

    def __init__(self, free: Callable[[HttpConnection], None], gone: Callable[[HttpConnection], None]) -> None:
        self.used = False
        self.heard = False
        self._free = free
        self._gone = gone
        self._transport: Any = None
        self._parser: Any = None
        self._receiver: Receiver | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._complete = self._keep = self._held = False

    @property
    def open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, receiver: Receiver) -> None:
        """Send the bytes of a request; its answer goes to `receiver`."""
        self._parser = self._parser or httptools.HttpResponseParser(self)
        self._receiver = receiver
        self._status, self._headers = 0, {}
        self.heard = self._complete = False
        self._transport.write(request)

    def hold(self, holding: bool) -> None:
        """Read nothing for now, or go on: what the server sends meanwhile waits in the network's buffers."""
        if holding != self._held and self.open:
            self._held = holding
            if holding:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def close(self) -> None:
        """End the connection; whoever waits for an answer hears nothing more."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(type(exc).__name__ if exc else "the connection was closed")
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and hand it on."""
        self.heard = True
        if self._receiver is None:
            return self.close()  # an answer that nobody asked for
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            receiver = self._receiver
            self.close()
            return receiver.lost("the answer is not HTTP")
        if self._parts:
            parts, self._parts = self._parts, []
            self._receiver.body(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._complete:
            self._finish()
        return None

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Hand the head on; those with a status below 200 come before the answer."""
        self._status = self._parser.get_status_code()
        if self._status < 200:
            self._headers = {}
        elif self._receiver is not None:
            self._receiver.head(self._status, self._headers)

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body, until all of this read is parsed."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the answer, and whether another may follow."""
        self._complete = self._status >= 200
        self._keep = self._parser.should_keep_alive()

    # inside

    def _finish(self) -> None:
        receiver, self._receiver = self._receiver, None
        self.used = True
        self.hold(False)
        if receiver is not None:
            receiver.end()
        if self._keep and self.open:
            self._free(self)
        else:
            self.close()
