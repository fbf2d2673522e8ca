"""Where messages are posted: the parts of a messaging URL, and the kept-alive connections to its origin."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from bf_plugin.gateway.connection import HttpConnection
from bf_plugin.runtime.turns import Turns

_IDLE_TIMEOUT = 15.0
"""Seconds after which an unused connection is closed: before most servers do it under us."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL, taken apart. `path` has no slash at its end, `common` are header lines, a login among them."""

    host: str
    port: int
    secure: bool
    path: str = field(repr=False)
    common: bytes = field(repr=False)

    @property
    def origin(self) -> tuple[str, int, bool]:
        """What connections are shared by."""
        return self.host, self.port, self.secure

    def head(self, path: str, headers: Mapping[str, str]) -> bytes:
        """Return the head of a POST below the base, but for further headers and the empty line. Raises ValueError."""
        target = (self.path + path).encode("ascii")
        if any(byte <= 0x20 for byte in target):
            raise ValueError("a URL holds no white space")
        return b"POST %b HTTP/1.1\r\n%b%b" % (target, self.common, _lines(headers))


def endpoint_of(url: str) -> Endpoint:
    """Return the endpoint that is below a base URL. Raises ValueError for one that cannot be called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an HTTP URL")
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    secure = parts.scheme == "https"
    named = f"[{host}]" if ":" in host else host
    common = _lines({"Host": f"{named}:{parts.port}" if parts.port else named, "Accept-Encoding": "identity"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        common += _lines({"Authorization": f"Basic {b64encode(login.encode()).decode()}"})
    return Endpoint(host, parts.port or (443 if secure else 80), secure, parts.path.rstrip("/"), common)


def _lines(headers: Mapping[str, str]) -> bytes:
    """Return header lines. Raises ValueError for a value that would be more than one, or none."""
    lines = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())
    if lines.count(b"\n") != len(headers) or b"\0" in lines:
        raise ValueError("not a header")
    return lines


class Pool:
    """Connections to one origin, at most `limit`. When all are busy, owners take turns, each as often as any other."""

    def __init__(self, endpoint: Endpoint, *, limit: int) -> None:
        self._endpoint = endpoint
        self._tls = ssl.create_default_context() if endpoint.secure else None
        self._limit = limit
        self._idle: deque[tuple[HttpConnection, float]] = deque()
        self._open: set[HttpConnection] = set()
        self._connecting = 0
        self._turns: Turns[asyncio.Future[HttpConnection | None]] = Turns()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self, owner: str, seconds: float) -> HttpConnection:
        """Return a connection for one request, within `seconds`. Once answered it is free again by itself.

        Raises OSError (no connection), asyncio.TimeoutError.
        """
        return self._unused() or await self._next(owner, asyncio.get_running_loop().time() + seconds)

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

    async def _next(self, owner: str, deadline: float) -> HttpConnection:
        """Return a new connection where there is room, else wait for the owner's turn."""
        loop = asyncio.get_running_loop()
        while len(self._open) + self._connecting >= self._limit:
            turn: asyncio.Future[HttpConnection | None] = loop.create_future()
            self._turns.put(owner, turn)
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
        connecting = asyncio.ensure_future(self._new_connection())
        self._connecting += 1
        try:
            await asyncio.wait({connecting}, timeout=seconds)
            if not connecting.done():
                raise asyncio.TimeoutError
            connection = connecting.result()
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

    async def _new_connection(self) -> HttpConnection:
        """Connect to the first of the host's addresses that answers; one that hangs is not waited for."""
        loop = asyncio.get_running_loop()
        host = self._endpoint.host
        found = await loop.getaddrinfo(host, self._endpoint.port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=0.25, interleave=1)
        where: dict[str, Any] = {"ssl": self._tls, "server_hostname": host} if self._tls else {}
        _, connection = await loop.create_connection(lambda: HttpConnection(self._free, self._gone), sock=sock, **where)
        return connection

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
            self._sweeper = loop.call_later(_IDLE_TIMEOUT, self._sweep)

    def _gone(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if not self._closed:
            self._pass_on(None)

    def _pass_on(self, connection: HttpConnection | None) -> None:
        """Give a connection, or the room for one, to the owner whose turn it is."""
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
        while self._idle and loop.time() - self._idle[0][1] >= _IDLE_TIMEOUT:
            self._idle.popleft()[0].close()
        if self._idle:
            self._sweeper = loop.call_later(_IDLE_TIMEOUT, self._sweep)


def _close_late(connecting: asyncio.Future[HttpConnection]) -> None:
    """Close a connection that came up when nobody waited for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _expire(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(asyncio.TimeoutError())
