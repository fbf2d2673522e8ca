"""Kept-alive connections to one origin, a limited number of them, shared fairly among those who want one."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from bf_plugin.runtime.connections.connection import HttpConnection
from bf_plugin.runtime.turns import Turns

_IDLE = 15.0
"""Seconds after which an unused connection is closed: before most servers do it under us."""

Connect = Callable[[Callable[[], HttpConnection]], Awaitable[HttpConnection]]
"""Makes a connection with the protocol that the given function makes."""


class Pool:
    """Connections to one origin, at most `limit`. When all are busy, owners take turns, whoever has more to say."""

    def __init__(self, connect: Connect, *, limit: int) -> None:
        self._new_connection = connect
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
        connecting = asyncio.ensure_future(self._new_connection(lambda: HttpConnection(self._free, self._gone)))
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
        while self._idle and loop.time() - self._idle[0][1] >= _IDLE:
            self._idle.popleft()[0].close()
        if self._idle:
            self._sweeper = loop.call_later(_IDLE, self._sweep)


def direct(host: str, port: int, tls: ssl.SSLContext | None) -> Connect:
    """Return what connects to a host itself, with TLS if there is a context for it."""
    where: dict[str, Any] = {"ssl": tls} if tls else {}

    async def connect(make: Callable[[], HttpConnection]) -> HttpConnection:
        _, connection = await asyncio.get_running_loop().create_connection(make, host, port, **where)
        return connection

    return connect


def _close_late(connecting: asyncio.Future[HttpConnection]) -> None:
    """Close a connection that came up when nobody waited for it any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _expire(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(asyncio.TimeoutError())
