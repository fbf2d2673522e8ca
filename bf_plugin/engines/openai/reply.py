"""The answer to a request for a stream: its head is awaited, its body is pushed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bf_plugin.runtime.connections.connection import HttpConnection

_LAST_BYTES = 0.2
"""Seconds for the end of a body whose last event has come: read, it leaves a connection the next step can use."""


class Reply:
    """Receives an answer; implements the connection's Receiver. Used on the loop."""

    def __init__(self, connection: HttpConnection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.over = False
        self._connection = connection
        self._news = asyncio.Event()
        self._parts: list[bytes] = []
        self._pour: Callable[[bytes], None] | None = None
        self._ended: Callable[[], None] | None = None

    async def headed(self, seconds: float) -> None:
        """Return when the head is there. Raises asyncio.TimeoutError, OSError when the connection ends without."""
        await self._wait(lambda: bool(self.status), seconds)
        if not self.status:
            raise ConnectionResetError("the connection ended without an answer")

    async def content(self, limit: int, seconds: float) -> bytes:
        """Return the body, up to about `limit` bytes, once it is there; what came if it breaks off or takes longer."""
        try:
            await self._wait(lambda: sum(map(len, self._parts)) >= limit, seconds)
        except asyncio.TimeoutError:
            pass  # what came must do
        finally:
            self.close()
        return b"".join(self._parts)

    def pour(self, pour: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """From now on call `pour` with what each network read brings, what came before included, then `ended`."""
        parts, self._parts = self._parts, []
        self._pour, self._ended = pour, ended
        if parts:
            pour(b"".join(parts))
        if self.over and self._ended is not None:
            ended()

    def hold(self, holding: bool) -> None:
        """Receive nothing for now, or go on."""
        if not self.over:
            self._connection.hold(holding)

    def close(self) -> None:
        """Stop receiving. A body that should end now may do so, and leaves its connection to others."""
        self._pour = self._ended = None
        if not self.over:
            self._connection.hold(False)
            asyncio.get_running_loop().call_later(_LAST_BYTES, self._give_up)

    def abort(self) -> None:
        """Stop receiving at once; the connection is lost."""
        self._pour = self._ended = None
        self._give_up()

    # the connection's side

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Keep the head."""
        self.status = status
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        self._news.set()

    def body(self, data: bytes) -> None:
        """Push, or keep, what came."""
        if self._pour is not None:
            self._pour(data)
        else:
            self._parts.append(data)
            self._news.set()

    def end(self) -> None:
        """Tell that there is no more."""
        self.over = True
        self._news.set()
        if self._ended is not None:
            self._ended()

    def lost(self, reason: str) -> None:
        """Tell that there is no more, whatever the reason: events tell whether it was all."""
        self.end()

    def _give_up(self) -> None:
        if not self.over:
            self.over = True
            self._connection.close()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Return when something is so, or the answer over. Raises asyncio.TimeoutError; the answer is lost then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            while not condition() and not self.over:
                self._news.clear()
                await asyncio.wait_for(self._news.wait(), deadline - loop.time())
        except BaseException:
            self.abort()
            raise
