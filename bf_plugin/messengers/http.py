"""Messages over HTTP: the messenger of `http` and `https` messaging URLs."""

from __future__ import annotations

import asyncio
from typing import Any

from bf_plugin.errors import ConfigurationError, DeliveryRefused, DeliveryRetry
from bf_plugin.messengers.answers import PATH, settle
from bf_plugin.messengers.connection import ConnectionLost
from bf_plugin.messengers.pool import Endpoint, Pool, endpoint_of
from bf_plugin.messengers.port import Destination, envelope


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
        self._endpoints: dict[str, tuple[Endpoint, Pool]] = {}

    async def send(self, destination: Destination, message: bytes) -> None:
        """Deliver one message. Raises DeliveryRetry or DeliveryRefused."""
        if destination.url is None:
            raise DeliveryRefused("the destination has no messaging URL")
        endpoint, pool = self._endpoints.get(destination.url) or self._known(destination.url)
        body = envelope(destination, message)
        try:
            answer = await pool.post(endpoint.head, body, app=destination.app, seconds=self._timeout)
        except ConnectionLost as lost:
            raise DeliveryRetry(f"the gateway gave no answer ({lost})") from None
        except (asyncio.TimeoutError, OSError) as error:
            # Without its text and cause, which may quote the URL: that may hold a password.
            raise DeliveryRetry(f"the gateway cannot be reached ({type(error).__name__})") from None
        settle(answer.status, answer.retry_after)

    async def aclose(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._endpoints.clear()

    def _known(self, url: str) -> tuple[Endpoint, Pool]:
        try:
            endpoint = endpoint_of(url, PATH)
        except ValueError:
            raise DeliveryRefused("the messaging URL is not valid") from None
        origin = (endpoint.host, endpoint.port, endpoint.secure)
        if origin not in self._pools:
            self._pools[origin] = Pool(endpoint, limit=self._connections)
        self._endpoints[url] = endpoint, self._pools[origin]
        return self._endpoints[url]


def create_messenger(context: Any) -> HttpMessenger:
    """Return the messenger; the entry points `http` and `https` of the group `bf_plugin.messengers` name this.

    `context` is a PluginContext; the section `[plugins.http]` (or `https`) may set `connections`.
    """
    connections = context.section.get("connections", 100)
    if not isinstance(connections, int) or connections < 1:
        raise ConfigurationError(f"plugins.{context.name}.connections must be a positive number")
    return HttpMessenger(connections=connections)
