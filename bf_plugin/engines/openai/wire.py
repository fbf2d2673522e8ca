"""The requests whose answers are streams, made on aiohttp itself.

There is one for every step of every run. Through the SDK and its HTTP client it costs six times as much before the
first byte, and half as much again for each read after it. All other requests, which may be retried, are the SDK's; what
a refusal means is told from the same fields in the same place (`problems`).
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import urllib.request
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import certifi
import msgspec

from bf_plugin.engines.openai.problems import Problem, refusal_of
from bf_plugin.events import well_formed_tree

_CONNECT_TIMEOUT = 30.0
_LONGEST_REFUSAL = 256 * 1024


class Wire:
    """Connections to one provider under one key. Made in any thread, used on one loop."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = api_key
        self._tls = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
        self._proxy = _proxy_for(base_url)
        self._agent = f"bf_plugin/{version('bf_plugin')}"
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, path: str, body: Mapping[str, Any], *, request_id: str | None, silence: float
    ) -> aiohttp.ClientResponse:
        """Ask, once; return the answer as soon as its head is there. `silence` bounds each wait, in seconds.

        Raises Problem.
        """
        return await self._ask("POST", path, request_id, silence, data=_encoded(body))

    async def get(
        self, path: str, query: Mapping[str, str], *, request_id: str | None, silence: float
    ) -> aiohttp.ClientResponse:
        """Follow, once; as `post`."""
        return await self._ask("GET", path, request_id, silence, params=query)

    async def aclose(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _ask(
        self, method: str, path: str, request_id: str | None, silence: float, **content: Any
    ) -> aiohttp.ClientResponse:
        headers = {"X-Client-Request-Id": request_id} if request_id else None
        patience = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=silence)
        try:
            answer = await self._open().request(
                method, self._base_url + path, headers=headers, timeout=patience, proxy=self._proxy, **content
            )
            if answer.status < 400:
                return answer
            refused = _content_of(await answer.content.read(_LONGEST_REFUSAL))
            answer.close()
        except asyncio.TimeoutError:
            raise Problem("the provider did not answer in time", code="provider_timeout") from None
        except ValueError:  # the texts of these errors may hold the request, and with it the key
            raise Problem("the request cannot be sent: no header can hold the key, or no URL is this") from None
        except (aiohttp.ClientError, OSError):
            raise Problem("the provider cannot be reached", code="provider_unreachable") from None
        raise refusal_of(answer.status, refused, answer.headers, self._key)

    def _open(self) -> aiohttp.ClientSession:
        """Return the session, made at the first request, since it belongs to the loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Authorization": f"Bearer {self._key}",
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream, application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": self._agent,
                },
            )
        return self._session


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON. Lone surrogates, as a caller may have sent them, are replaced."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(well_formed_tree(body))


def _content_of(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, as most clients understand it (`HTTPS_PROXY`, ...)."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)
