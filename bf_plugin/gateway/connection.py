"""A connection of our own, for the one request that is made thousands of times a second: a POST with a message.

Always the same kind of request in one event loop: a general client spends eight times as much on it, more than all the
rest of a message's way (docs/decisions/0014). Bytes are parsed by httptools (llhttp, Node's own parser).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import httptools


class Answer(NamedTuple):
    """What counts of an answer. `status` 0 is none, `problem` says why."""

    status: int
    retry_after: str | None = None
    problem: str = ""


class HttpConnection(asyncio.Protocol):
    """The client's side of one kept-alive connection. The body of an answer is dropped.

    The server may just be closing a connection that was `used` before; `heard` says whether any byte of an answer came.
    `free` is told when another request may follow, `gone` when the connection has ended.
    """

    def __init__(self, free: Callable[[HttpConnection], None], gone: Callable[[HttpConnection], None]) -> None:
        self.used = False
        self.heard = False
        self._free = free
        self._gone = gone
        self._transport: Any = None
        self._parser: Any = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._status = self._framings = 0
        self._retry_after: str | None = None
        self._complete = self._keep = False

    @property
    def open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def post(self, request: bytes, deadline: float) -> Answer:
        """Send the bytes of a request; return its answer once its body is over, the connection lost or the time out.

        A status that came counts, however the rest of its answer went. The connection is lost if this is cancelled.
        """
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[Answer] = loop.create_future()
        self._waiting = waiting
        self._status, self._retry_after, self._framings = 0, None, 0
        self.heard = self._complete = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
            # Gateways end the lines of a head with a bare LF, or send a length and chunks: then the chunks count.
            self._parser.set_dangerous_leniencies(
                lenient_headers=True, lenient_chunked_length=True, lenient_optional_cr_before_lf=True
            )
        self._transport.write(request)
        timer = loop.call_at(deadline, self._lose, "not in time")
        try:
            return await waiting
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the connection. A caller that still waits for an answer gets none."""
        self._waiting = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._lose(type(exc).__name__ if exc else "the connection was closed")
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self.heard = True
        if self._waiting is None:
            return self.close()  # an answer that nobody asked for
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return self._lose("the answer is not HTTP")
        return self._finish() if self._complete else None

    # httptools' side

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that matters, and count those that say where the body ends."""
        name = name.lower()
        if name == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._framings += 1

    def on_headers_complete(self) -> None:
        """Keep the status; one below 200 comes before the answer, and one above 599 is none."""
        status = self._parser.get_status_code()
        self._status = status if 200 <= status <= 599 else 0

    def on_message_complete(self) -> None:
        """Note the end of the answer, and whether another may follow."""
        self._complete = self._parser.get_status_code() >= 200
        self._keep = self._parser.should_keep_alive() and self._framings < 2  # of two, another may believe the other

    # inside

    def _finish(self) -> None:
        self._tell("")
        self.used = True
        if self._keep and self.open:
            self._free(self)
        else:
            self.close()

    def _lose(self, problem: str) -> None:
        self._tell(problem)
        self.close()

    def _tell(self, problem: str) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(self._status, self._retry_after, problem))
