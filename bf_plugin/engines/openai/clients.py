"""What talks to a provider: one client per base URL and key, few, and closed when nobody has used them for a while."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import certifi
from yarl import URL

from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.openai.wire import Wire
from bf_plugin.engines.port import Access

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_RETRIES = 2


class Client:
    """What one access has at the provider, and who uses it: the wire, and the SDK once something is asked through it.

    Most runs ask for nothing but streams, which the wire brings; an SDK client takes 50 ms to make.
    """

    def __init__(self, base_url: str, api_key: str, tls: Callable[[], ssl.SSLContext]) -> None:
        self.users = 0
        self.used_at = 0.0
        url = URL(base_url)
        self.wire = Wire(url, api_key, tls)
        self._made_of = url, api_key, tls
        self._sdk: Sdk | None = None
        self._closed = False
        self._making = asyncio.Lock()

    async def sdk(self) -> Sdk:
        """Return the SDK's part. Raises Problem once the client is closed: what is made then would stay open."""
        async with self._making:
            if self._closed:
                raise Problem("the connections to the provider are closed", code="provider_unreachable")
            if self._sdk is None:
                self._sdk = await asyncio.to_thread(Sdk, *self._made_of)
            return self._sdk

    async def close(self) -> None:
        """Close the connections."""
        await self.wire.aclose()
        async with self._making:
            self._closed = True
            if self._sdk is not None:
                await self._sdk.close()


class Sdk:
    """An SDK client. `once` never retries: a repeated create repeats the turn. `patient` does, for calls that may be
    made twice. Made in a thread, so the parts of the SDK that it loads late are touched here.
    """

    def __init__(self, base_url: URL, api_key: str, tls: Callable[[], ssl.SSLContext]) -> None:
        import openai

        http = openai.DefaultAioHttpClient(verify=tls())
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=str(base_url.with_query(None)),
            default_query=dict(base_url.query),
            max_retries=0,
            http_client=http,
        )
        self._client.organization = self._client.project = None  # the operator's, the key may be a caller's
        self.once = Resources(self._client)
        self.patient = Resources(self._client.with_options(max_retries=_RETRIES))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class Resources:
    """The parts of the API that are used, each call answered with an open HTTP response."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self.responses = client.responses.with_streaming_response
        self.conversations = client.conversations.with_streaming_response
        self.items = client.conversations.items.with_streaming_response


class Clients:
    """A bounded cache of clients, least recently used first. Those in use are never closed, whatever the bound."""

    def __init__(self, *, size: int = 64, idle: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._idle = idle
        self._clock = clock
        self._clients: OrderedDict[tuple[str, str], Client] = OrderedDict()
        self._closed = False
        self._making = asyncio.Lock()
        self.tls = cache(_context)

    def warm_up(self) -> None:
        """Load what takes long, in a thread: the SDK, with what it loads late, and the certificates."""
        import openai
        from openai.resources import conversations, responses

        _ = openai.DefaultAioHttpClient, conversations.AsyncConversations, responses.AsyncResponses
        self.tls()

    async def take(self, access: Access) -> Client:
        """Return the client for this access; give it back with `release`."""
        key = access.base_url or DEFAULT_BASE_URL, access.api_key
        client = self._clients.get(key)
        if client is None:
            client = await self._make(key)
        client.users += 1
        client.used_at = self._clock()
        self._clients.move_to_end(key)
        await self._tidy()
        return client

    def release(self, client: Client) -> None:
        """Say that one use of a client is over."""
        client.users -= 1
        client.used_at = self._clock()

    async def aclose(self) -> None:
        """Close all clients, and make no more."""
        async with self._making:
            self._closed = True
        while self._clients:
            await self._clients.popitem()[1].close()

    async def _make(self, key: tuple[str, str]) -> Client:
        """In a thread: reading the environment and the certificates takes time, and the loop serves all runs."""
        async with self._making:
            if self._closed:
                raise Problem("the connections to the provider are closed", code="provider_unreachable")
            if key not in self._clients:
                try:
                    self._clients[key] = await asyncio.to_thread(Client, *key, self.tls)
                except ValueError:
                    raise Problem("the provider's base URL is no URL", code="provider_error") from None
            return self._clients[key]

    async def _tidy(self) -> None:
        latest = self._clock() - self._idle
        unused = [key for key, client in self._clients.items() if client.users == 0]
        excess = len(self._clients) - self._size
        for number, key in enumerate(unused):
            if number < excess or self._clients[key].used_at < latest:
                await self._clients.pop(key).close()


def _context() -> ssl.SSLContext:
    """Return the certificates to trust, as the SDK chooses them. Reading them takes 50 ms: one for all keys."""
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
