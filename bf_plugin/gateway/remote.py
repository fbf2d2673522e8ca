"""Messages over HTTP: the messenger of `http` and `https` messaging URLs."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from bf_plugin.errors import ConfigurationError, DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.connection import Answer
from bf_plugin.gateway.messengers import PATH, Destination, envelope, settle
from bf_plugin.gateway.pool import Pool, endpoint_of

_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "bf_plugin"}


class _Way(NamedTuple):
    """How to reach a messaging URL: the head of each request but for its length, and the connections."""

    head: bytes
    pool: Pool


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
        request = b"%bContent-Length: %d\r\n\r\n%b" % (way.head, len(body), body)
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

    async def _post(self, pool: Pool, request: bytes, app: str) -> Answer:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            connection = await pool.take(app, deadline - loop.time())
            was_used = connection.used
            answer = await connection.post(request, deadline)
            # A server may close a kept connection just as we write. Should it have the message, it gets it twice.
            in_vain = not answer.status and was_used and not connection.heard
            if not in_vain or loop.time() >= deadline:
                return answer

    def _way(self, url: str) -> _Way:
        try:
            endpoint = endpoint_of(url)
            head = endpoint.head(PATH, _HEADERS)
        except ValueError:
            raise DeliveryRefused("the messaging URL is not valid") from None
        if endpoint.origin not in self._pools:
            self._pools[endpoint.origin] = Pool(endpoint, limit=self._connections)
        self._ways[url] = _Way(head, self._pools[endpoint.origin])
        return self._ways[url]


def create_messenger(context: Any) -> HttpMessenger:
    """Return the messenger; the entry points `http` and `https` of the group `bf_plugin.messengers` name this.

    `context` is a PluginContext; the section `[plugins.http]` (or `https`) may set `connections`.
    """
    connections = context.section.get("connections", 100)
    if not isinstance(connections, int) or connections < 1:
        raise ConfigurationError(f"plugins.{context.name}.connections must be a positive number")
    return HttpMessenger(connections=connections)
