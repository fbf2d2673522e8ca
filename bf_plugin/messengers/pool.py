"""Kept-alive connections to one origin, a limited number of them, shared fairly among apps."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from bf_plugin.messengers.connection import Answer, ConnectionLost, HttpConnection
from bf_plugin.turns import Turns

_IDLE = 15.0
"""Seconds after which an unused connection is closed: before most servers do it under us."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go: an origin, and the head of each request but for its length."""

    host: str
    port: int
    secure: bool
    head: bytes = field(repr=False)


def endpoint_of(url: str, path: str) -> Endpoint:
    """Return the endpoint of `path` below a URL. Raises ValueError for a URL that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an HTTP URL")
    secure = parts.scheme == "https"
    host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
    port = parts.port or (443 if secure else 80)
    named = f"[{host}]" if ":" in host else host
    target = (parts.path.rstrip("/") + path).encode("ascii")
    lines = [b"POST %b HTTP/1.1" % target, f"Host: {named}{f':{parts.port}' if parts.port else ''}".encode()]
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        lines.append(b"Authorization: Basic " + b64encode(login.encode()))
    lines += [b"Content-Type: application/json", b"Accept: application/json", b"Accept-Encoding: identity"]
    head = b"\r\n".join([*lines, b"User-Agent: bf_plugin", b"Content-Length: "])
    if any(byte <= 0x20 for byte in target) or head.count(b"\n") != len(lines) + 1:
        raise ValueError("a URL holds no white space")
    return Endpoint(host, port, secure, head)


class Pool:
    """Connections to one origin, at most `limit`. When all are busy, apps take turns, whoever has more to say."""

    def __init__(self, endpoint: Endpoint, *, limit: int) -> None:
        self._endpoint = endpoint
        self._limit = limit
        self._tls = ssl.create_default_context() if endpoint.secure else None
        self._idle: deque[tuple[HttpConnection, float]] = deque()
        self._open: set[HttpConnection] = set()
        self._connecting = 0
        self._turns: Turns[asyncio.Future[HttpConnection | None]] = Turns()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def post(self, head: bytes, body: bytes, *, app: str, seconds: float) -> Answer:
        """Send a request within `seconds`, the wait for a connection included.

        Raises ConnectionLost, OSError (no connection), asyncio.TimeoutError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        while True:
            connection = self._unused() or await self._connection(app, deadline)
            was_used = connection.used
            try:
                return await connection.post(request, deadline - loop.time())
            except ConnectionLost as lost:
                # The server was closing it as we wrote. The gateway may have the message, which can be sent twice.
                if lost.heard or not was_used or loop.time() >= deadline:
                    raise

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._open):
            connection.close()

    def _unused(self) -> HttpConnection | None:
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connection(self, app: str, deadline: float) -> HttpConnection:
        """Return a new connection where there is room, else wait for the app's turn."""
        loop = asyncio.get_running_loop()
        while len(self._open) + self._connecting >= self._limit:
            turn: asyncio.Future[HttpConnection | None] = loop.create_future()
            self._turns.put(app, turn)
            timer = loop.call_at(deadline, _expire, turn)
            try:
                connection = await turn
            except BaseException:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self._pass_on(turn.result())
                raise
            finally:
                timer.cancel()
            if connection is not None and connection.open:
                return connection
        return await self._connect(max(deadline - loop.time(), 0.001))

    async def _connect(self, seconds: float) -> HttpConnection:
        """Return a new connection. Raises OSError, asyncio.TimeoutError."""
        where: dict[str, Any] = {"ssl": self._tls} if self._tls else {}
        make = asyncio.get_running_loop().create_connection
        connecting = asyncio.ensure_future(make(self._made, self._endpoint.host, self._endpoint.port, **where))
        self._connecting += 1
        try:
            await asyncio.wait({connecting}, timeout=seconds)
            if not connecting.done():
                raise asyncio.TimeoutError
            _, connection = connecting.result()
            self._open.add(connection)
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_close_late)
            self._pass_on(None)
            raise
        finally:
            self._connecting -= 1
        if self._closed:
            connection.close()
        return connection

    def _made(self) -> HttpConnection:
        return HttpConnection(self._free, self._gone)

    def _free(self, connection: HttpConnection) -> None:
        if self._closed:
            connection.close()
        elif self._turns:
            self._pass_on(connection)
        else:
            self._keep(connection)

    def _keep(self, connection: HttpConnection) -> None:
        loop = asyncio.get_running_loop()
        self._idle.append((connection, loop.time()))
        if self._sweeper is None:
            self._sweeper = loop.call_later(_IDLE, self._sweep)

    def _gone(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if not self._closed:
            self._pass_on(None)

    def _pass_on(self, connection: HttpConnection | None) -> None:
        """Give a connection, or the room for one, to the app whose turn it is."""
        while self._turns:
            turn = self._turns.take()
            if not turn.done():
                return turn.set_result(connection)
        if connection is not None and connection.open:
            self._keep(connection)
        return None

    def _sweep(self) -> None:
        """Close what was not used for a while."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        while self._idle and loop.time() - self._idle[0][1] >= _IDLE:
            self._idle.popleft()[0].close()
        if self._idle:
            self._sweeper = loop.call_later(_IDLE, self._sweep)


def _close_late(connecting: asyncio.Future[Any]) -> None:
    """Close a connection that came up when nobody waited for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[1].close()


def _expire(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(asyncio.TimeoutError())
