"""Messages over HTTP: the messenger of `http` and `https` messaging URLs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp

from bf_plugin.errors import ConfigurationError, DeliveryRefused, DeliveryRetry
from bf_plugin.messengers.answers import PATH, settle
from bf_plugin.messengers.port import Destination, envelope

# Uncompressed: the answer is thrown away unread.
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}


class HttpMessenger:
    """Posts to `<url>/message/sendmessage` over kept-alive connections, at most `connections` to one origin.

    `timeout` is in seconds, for all of a delivery: the wait for a connection, the connect, the answer. Redirects are
    not followed and proxies of the environment not used: a message goes where the operator said.
    """

    def __init__(self, *, connections: int = 100, timeout: float = 5.0) -> None:
        self._connections = connections
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def send(self, destination: Destination, message: bytes) -> None:
        """Deliver one message. Raises DeliveryRetry or DeliveryRefused."""
        if destination.url is None:
            raise DeliveryRefused("the destination has no messaging URL")
        url = destination.url.rstrip("/") + PATH
        try:
            status, retry_after = await self._post(url, envelope(destination, message))
        except aiohttp.InvalidURL:
            raise DeliveryRefused("the messaging URL is not valid") from None
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            # Without its text and cause: aiohttp quotes URLs, and a URL may hold a password.
            raise DeliveryRetry(f"the gateway gave no answer ({type(error).__name__})") from None
        settle(status, retry_after)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, body: bytes) -> tuple[int, str | None]:
        async with self._open().post(url, data=body, allow_redirects=False) as response:
            # Read to the end, so that the connection can be used again, but keep nothing of it: the status decides, and
            # an answer that breaks off after it costs only the connection.
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                while await response.content.readany():
                    pass
            return response.status, response.headers.get("Retry-After")

    def _open(self) -> aiohttp.ClientSession:
        """Return the session, made at the first delivery, since it belongs to the loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


def create_messenger(context: Any) -> HttpMessenger:
    """Return the messenger; the entry points `http` and `https` of the group `bf_plugin.messengers` name this.

    `context` is a PluginContext; the section `[plugins.http]` (or `https`) may set `connections`.
    """
    connections = context.section.get("connections", 100)
    if not isinstance(connections, int) or connections < 1:
        raise ConfigurationError(f"plugins.{context.name}.connections must be a positive number")
    return HttpMessenger(connections=connections)
