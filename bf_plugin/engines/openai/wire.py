"""The requests whose answers are streams, over aiohttp. All others, which may be retried, are the SDK's (`api`).

There is a stream for every step of every run, and reading one through the SDK costs several times as much
(docs/decisions/0001). What a refusal means is told from the same fields in the same place (`problems`).
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from bf_plugin.engines.openai.decode import loads
from bf_plugin.engines.openai.problems import Problem, refusal_of
from bf_plugin.runtime.text import well_formed_tree

_CONNECT_TIMEOUT = 30.0
_IDLE_TIMEOUT = 15.0
"""Seconds after which an unused connection is closed: before most servers do it under us."""

_REST_TIMEOUT = 0.2
"""Seconds for the end of a body whose last event has come: read, it leaves a connection the next step can use."""

_LONGEST_REFUSAL = 256 * 1024


class Wire:
    """Connections to one provider under one key. Made in any thread, used on one loop."""

    def __init__(self, base_url: URL, api_key: str, tls: Callable[[], ssl.SSLContext]) -> None:
        self._base_url = base_url
        self._key = api_key
        self._tls = tls
        self._proxy = _proxy_for(base_url)
        self._headers = {  # not the session's: aiohttp sends those to a proxy too
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # to compress, a server would gather text; what is compressed is read too
            "User-Agent": f"bf_plugin/{version('bf_plugin')}",
        }
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._ending: set[Reply] = set()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        body: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Ask, once; return the answer as soon as its head is there, `timeout` seconds later at most. Raises Problem.

        `path` is below the base URL, and may have a query.
        """
        data = None if body is None else _encoded(body)
        try:
            reply = Reply(await asyncio.wait_for(self._send(method, path, headers, data), timeout), self._ending)
            if reply.status >= 300:  # a redirect would take the key to another place
                raise await self._refusal(reply, timeout)
        except ValueError:  # its text may hold the key
            raise Problem(
                "the request cannot be sent: no header can hold the key, or no URL is this", code="provider_error"
            ) from None
        except asyncio.TimeoutError:
            raise Problem("the provider did not answer in time", code="provider_timeout") from None
        except (aiohttp.ClientError, OSError):  # its text may tell the address of a proxy, with its password
            raise Problem("the provider cannot be reached", code="provider_unreachable") from None
        return reply

    async def aclose(self) -> None:
        """Close the connections. Whoever asks afterwards is refused: a session made then would stay open."""
        session, self._session, self._closed = self._session, None, True
        for reply in list(self._ending):
            reply.close()
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes | None
    ) -> aiohttp.ClientResponse:
        if self._closed:
            raise aiohttp.ClientConnectionError("the connections are closed")
        if self._session is None:
            self._session = self._new_session()
        url = self._base_url.join(URL(self._base_url.raw_path.rstrip("/") + path, encoded=True))
        if self._base_url.query:
            url = url.update_query(self._base_url.query)
        return await self._session.request(
            method, url, data=data, headers={**self._headers, **headers}, proxy=self._proxy, allow_redirects=False
        )

    def _new_session(self) -> aiohttp.ClientSession:
        secure = self._base_url.scheme == "https"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # each run has at most one stream
                keepalive_timeout=_IDLE_TIMEOUT,
                ssl=self._tls() if secure else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
        )

    async def _refusal(self, reply: Reply, timeout: float) -> Problem:
        body = b""
        try:
            while len(body) < _LONGEST_REFUSAL and (data := await asyncio.wait_for(reply.read(), timeout)):
                body += data
            fields = loads(body)
        except (asyncio.TimeoutError, ValueError):
            fields = None
        finally:
            reply.close()
        return refusal_of(reply.status, fields, reply.headers, self._key)


class Reply:
    """The answer to one request, read piece by piece. But for a buffer's full, what is not read waits at the server."""

    def __init__(self, response: aiohttp.ClientResponse, ending: set[Reply]) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._ending = ending

    async def read(self) -> bytes:
        """Return what came, nothing at the end. However it ended: events tell whether it was all."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError):
            # aiohttp reports a lost connection before it returns the bytes that came until then, perhaps the ending.
            return self._response.content._read_nowait(-1)

    def close(self) -> None:
        """End a read that is under way and give the connection back; it is kept if all was read."""
        self._ending.discard(self)
        self._response.release()

    def finish(self) -> None:
        """Give the connection back once the body has ended, which it should do now: the last event has come."""
        self._ending.add(self)
        asyncio.get_running_loop().call_later(_REST_TIMEOUT, self.close)  # at its end aiohttp lets go by itself


def _proxy_for(url: URL) -> URL | None:
    """Return the proxy that the environment names for a provider. (aiohttp's `trust_env` would read `.netrc` too.)"""
    proxy = urllib.request.getproxies().get(url.scheme)
    if not proxy or urllib.request.proxy_bypass(url.host or ""):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


def _encoded(body: Mapping[str, Any]) -> bytes:
    """Return a body as JSON. Lone surrogates, as a caller may have sent them, are replaced."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(well_formed_tree(body))
