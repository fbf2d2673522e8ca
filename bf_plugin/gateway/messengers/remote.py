"""Messages over HTTP: the messenger of `http` and `https` messaging URLs."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, NamedTuple

from bf_plugin.errors import ConfigurationError, DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.messengers.answers import PATH, settle
from bf_plugin.gateway.messengers.port import Destination, envelope
from bf_plugin.runtime.connections.connection import HttpConnection
from bf_plugin.runtime.connections.endpoint import endpoint_of, header_lines
from bf_plugin.runtime.connections.pool import Pool, direct

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "bf_plugin"}


class HttpMessenger:
    """Posts to `<url>/message/sendmessage` over kept-alive connections, at most `connections` to one origin.

    `timeout` is in seconds, for all of a delivery: the wait for a connection, the connect, the answer. The status of
    the answer decides; its body is dropped, since gateways echo the message there. Redirects are not followed and
    proxies of the environment not used: a message goes where the operator said.
    """

    def __init__(self, *, connections: int = 100, timeout: float = 5.0) -> None:
        self._connections = connections
        self._timeout = timeout
        self._pools: dict[tuple[str, int, bool], Pool] = {}
        self._ways: dict[str, _Way] = {}

    async def send(self, destination: Destination, message: bytes) -> None:
        """Deliver one message. Raises DeliveryRetry or DeliveryRefused."""
        if destination.url is None:
            raise DeliveryRefused("the destination has no messaging URL")
        way = self._ways.get(destination.url) or self._way(destination.url)
        body = envelope(destination, message)
        request = b"%b%d\r\n\r\n%b" % (way.head, len(body), body)
        try:
            answer = await self._post(way.pool, request, destination.app)
        except (asyncio.TimeoutError, OSError) as error:
            # Without its text and cause, which may quote the URL: that may hold a password.
            raise DeliveryRetry(f"the gateway cannot be reached ({type(error).__name__})") from None
        if not answer.status:
            raise DeliveryRetry(f"the gateway gave no answer ({answer.problem})")
        settle(answer.status, answer.retry_after)

    async def aclose(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._ways.clear()

    async def _post(self, pool: Pool, request: bytes, app: str) -> _Answer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            connection = await pool.take(app, deadline - loop.time())
            was_used = connection.used
            answer = _Answer(connection, request, deadline)
            await answer.wait()
            # A server may close a kept connection just as we write. Should it have the message, it gets it twice.
            in_vain = not answer.status and was_used and not connection.heard
            if not in_vain or loop.time() >= deadline:
                return answer

    def _way(self, url: str) -> _Way:
        try:
            endpoint = endpoint_of(url)
            head = endpoint.head("POST", PATH) + header_lines(_HEADERS) + b"Content-Length: "
        except ValueError:
            raise DeliveryRefused("the messaging URL is not valid") from None
        if endpoint.origin not in self._pools:
            tls = ssl.create_default_context() if endpoint.secure else None
            self._pools[endpoint.origin] = Pool(direct(endpoint.host, endpoint.port, tls), limit=self._connections)
        self._ways[url] = _Way(head, self._pools[endpoint.origin])
        return self._ways[url]


class _Way(NamedTuple):
    """How to reach a messaging URL: the head of each request but for its length, and the connections."""

    head: bytes
    pool: Pool


class _Answer:
    """What counts of an answer: its status, once its body is over, the connection lost or the time out."""

    __slots__ = ("_connection", "_settled", "_timer", "problem", "retry_after", "status")

    def __init__(self, connection: HttpConnection, request: bytes, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        self.status = 0
        self.retry_after: str | None = None
        self.problem = ""
        self._settled: asyncio.Future[None] = loop.create_future()
        self._connection = connection
        self._timer = loop.call_at(deadline, self._late)
        connection.send(request, self)

    async def wait(self) -> None:
        """Return when it is settled; the connection is lost if this is cancelled."""
        try:
            await self._settled
        except BaseException:
            self._connection.close()
            raise
        finally:
            self._timer.cancel()

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Keep the status; one that is none is no answer."""
        self.status = status if status <= 599 else 0
        if (later := headers.get(b"retry-after")) is not None:
            self.retry_after = later.decode("latin-1")

    def body(self, data: bytes) -> None:
        """Drop it."""

    def end(self) -> None:
        """Settle."""
        if not self._settled.done():
            self._settled.set_result(None)  # not itself: a cycle a message keeps the garbage collector busy

    def lost(self, reason: str) -> None:
        """Settle: a status that came counts, a body that broke off does not matter."""
        self.problem = reason
        self.end()

    def _late(self) -> None:
        self._connection.close()
        self.lost("not in time")


def create_messenger(context: Any) -> HttpMessenger:
    """Return the messenger; the entry points `http` and `https` of the group `bf_plugin.messengers` name this.

    `context` is a PluginContext; the section `[plugins.http]` (or `https`) may set `connections`.
    """
    connections = context.section.get("connections", 100)
    if not isinstance(connections, int) or connections < 1:
        raise ConfigurationError(f"plugins.{context.name}.connections must be a positive number")
    return HttpMessenger(connections=connections)
