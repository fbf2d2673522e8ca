"""The requests whose answers are streams, on connections of our own.

There is one for every step of every run. Through the SDK and its HTTP client it costs six times as much before the
first byte, and five times as much for each read after it. All other requests, which may be retried, are the SDK's; what
a refusal means is told from the same fields in the same place (`problems`).
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlencode

import msgspec

from bf_plugin.engines.openai.decode import loads
from bf_plugin.engines.openai.problems import Problem, refusal_of
from bf_plugin.engines.openai.reply import Reply
from bf_plugin.gateway.events import well_formed_tree
from bf_plugin.runtime.connections.endpoint import endpoint_of, header_lines
from bf_plugin.runtime.connections.pool import Connect, Pool, direct
from bf_plugin.runtime.connections.proxy import forwarded, tunnel

_CONNECT_TIMEOUT = 30.0
_CONNECTIONS = 10_000
"""More than there are runs: each has at most one stream."""

_LONGEST_REFUSAL = 256 * 1024


class Wire:
    """Connections to one provider under one key. Made in any thread, used on one loop."""

    def __init__(self, base_url: str, api_key: str, tls: Callable[[], ssl.SSLContext]) -> None:
        self._key = api_key
        self._connect: Connect | None
        self._tls = tls
        self._pool: Pool | None = None
        try:
            self._endpoint = endpoint_of(base_url)
            self._common = header_lines(
                {
                    "Authorization": f"Bearer {api_key}",
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream, application/json",
                    "User-Agent": f"bf_plugin/{version('bf_plugin')}",
                }
            )
            self._connect = self._way()
        except ValueError:  # its text may hold the key
            self._connect = None

    async def post(self, path: str, body: Mapping[str, Any], *, headers: Mapping[str, str], silence: float) -> Reply:
        """Ask, once; return the answer as soon as its head is there, `silence` seconds later at most.

        Raises Problem.
        """
        return await self._ask("POST", path, _encoded(body), headers, silence)

    async def get(self, path: str, query: Mapping[str, str], *, headers: Mapping[str, str], silence: float) -> Reply:
        """Follow, once; as `post`."""
        return await self._ask("GET", f"{path}?{urlencode(query)}", b"", headers, silence)

    async def aclose(self) -> None:
        """Close the connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str], silence: float) -> Reply:
        if self._connect is None:
            raise _unsendable()
        self._pool = self._pool or Pool(self._connect, limit=_CONNECTIONS)
        try:
            request = self._request(method, path, body, headers)
            connection = await self._pool.take("", _CONNECT_TIMEOUT)
            reply = Reply(connection)
            connection.send(request, reply)
            await reply.headed(silence)
            if reply.status >= 400:
                raise await self._refusal(reply, silence)
        except ValueError:
            raise _unsendable() from None
        except asyncio.TimeoutError:
            raise Problem("the provider did not answer in time", code="provider_timeout") from None
        except OSError:  # its text may tell the address of a proxy, with its password
            raise Problem("the provider cannot be reached", code="provider_unreachable") from None
        return reply

    def _request(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        head = self._endpoint.head(method, path) + self._common + header_lines(headers)
        return head + (b"Content-Length: %d\r\n\r\n%b" % (len(body), body) if body else b"\r\n")

    async def _refusal(self, reply: Reply, silence: float) -> Problem:
        body = await reply.content(_LONGEST_REFUSAL, silence)
        try:
            fields = loads(body)
        except ValueError:
            fields = None
        return refusal_of(reply.status, fields, reply.headers, self._key)

    def _way(self) -> Connect:
        """Return how the provider is reached: through the proxy that the environment names for it, or directly."""
        endpoint = self._endpoint
        proxy = urllib.request.getproxies().get("https" if endpoint.secure else "http")
        if not proxy or urllib.request.proxy_bypass(endpoint.host):
            return direct(endpoint.host, endpoint.port, self._tls() if endpoint.secure else None)
        if endpoint.secure:
            return tunnel(proxy, endpoint.host, endpoint.port, self._tls())
        self._endpoint, connect = forwarded(proxy, endpoint)
        return connect


def _unsendable() -> Problem:
    return Problem("the request cannot be sent: no header can hold the key, or no URL is this", code="provider_error")


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON. Lone surrogates, as a caller may have sent them, are replaced."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(well_formed_tree(body))
