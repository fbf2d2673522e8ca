"""One kept-alive HTTP/1.1 connection that brings one prepared request at a time.

A message is one of thousands a second, always the same kind of POST: a general client spends several times as much on
each as all the rest of its way costs. Answers are parsed by httptools (llhttp, Node's own parser).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import httptools


class Answer(NamedTuple):
    """What counts of an answer; its body is dropped."""

    status: int
    retry_after: str | None


class ConnectionLost(Exception):
    """The connection ended without an answer; `heard` tells whether anything of one came. Quotes nothing."""

    def __init__(self, reason: str, *, heard: bool) -> None:
        super().__init__(reason)
        self.heard = heard


class HttpConnection(asyncio.Protocol):
    """The client's side. One that was `used` before may just be being closed by the server."""

    def __init__(self, free: Callable[[HttpConnection], None], gone: Callable[[HttpConnection], None]) -> None:
        self.used = False
        self._free = free
        self._gone = gone
        self._transport: Any = None
        self._parser: Any = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._status = 0
        self._retry_after: str | None = None
        self._heard = self._complete = self._keep = False

    @property
    def open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def post(self, request: bytes, seconds: float) -> asyncio.Future[Answer]:
        """Send the bytes of a request; the future has the answer once its body is over, or `seconds` have passed.

        Without a status until then it has ConnectionLost. Cancelled, it costs the connection.
        """
        loop = asyncio.get_running_loop()
        self._parser = self._parser or httptools.HttpResponseParser(self)
        self._status, self._retry_after, self._heard, self._complete = 0, None, False, False
        waiting = self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._end, f"no answer in {seconds:.1f} s")
        waiting.add_done_callback(lambda _: timer.cancel())
        waiting.add_done_callback(self._abandoned)
        self._transport.write(request)
        return waiting

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Settle what waits: a status that came counts, a body that broke off does not matter."""
        self._settle(type(exc).__name__ if exc else "the connection was closed")
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._heard = True
        if self._waiting is None:
            return self.close()  # an answer that nobody asked for
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return self._end("the answer is not HTTP")
        if self._complete:
            self._finish()
        return None

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that counts."""
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the status; those below 200 come before the answer."""
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """Note the end of the answer, and whether another may follow."""
        self._complete = self._status >= 200
        self._keep = self._parser.should_keep_alive()

    # inside

    def _finish(self) -> None:
        self.used = True
        self._settle("")
        if self._keep and self.open:
            self._free(self)
        else:
            self.close()

    def _end(self, reason: str) -> None:
        """Give up on the connection."""
        self._settle(reason)
        self.close()

    def _settle(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if 200 <= self._status <= 599:
            waiting.set_result(Answer(self._status, self._retry_after))
        else:
            waiting.set_exception(ConnectionLost(reason, heard=self._heard))

    def _abandoned(self, waiting: asyncio.Future[Answer]) -> None:
        if waiting.cancelled():
            self._waiting = None
            self.close()
