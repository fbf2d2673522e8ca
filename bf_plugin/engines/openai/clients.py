"""The SDK's clients: one per base URL and key, few, and closed when nobody has used them for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from bf_plugin.engines.openai.wire import Wire
from bf_plugin.engines.port import Access

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_RETRIES = 2


class Client:
    """An SDK client and who uses it.

    `once` never retries: a repeated create repeats the turn. `patient` does, for calls that may be made twice. Made in
    a thread, so the parts of the SDK that it loads late are touched here.
    """

    def __init__(self, sdk: AsyncOpenAI, wire: Wire) -> None:
        self.users = 0
        self.used_at = 0.0
        self.wire = wire
        self._sdk = sdk
        self.once = Resources(sdk)
        self.patient = Resources(sdk.with_options(max_retries=_RETRIES))

    async def close(self) -> None:
        """Close the connections."""
        await self.wire.aclose()
        await self._sdk.close()


class Resources:
    """The parts of the API that are used, each call answered with an open HTTP response."""

    def __init__(self, sdk: AsyncOpenAI) -> None:
        self.responses = sdk.responses.with_streaming_response
        self.conversations = sdk.conversations.with_streaming_response
        self.items = sdk.conversations.items.with_streaming_response


class Clients:
    """A bounded cache of clients, least recently used first. Those in use are never closed, whatever the bound."""

    def __init__(self, *, size: int = 64, idle: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._idle = idle
        self._clock = clock
        self._clients: OrderedDict[tuple[str, str], Client] = OrderedDict()
        self._making = asyncio.Lock()

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
        """Close all clients."""
        while self._clients:
            await self._clients.popitem()[1].close()

    async def _make(self, key: tuple[str, str]) -> Client:
        """In a thread: importing the SDK takes a second and a TLS context 30 ms, the loop serves all runs."""
        async with self._making:
            if key not in self._clients:
                self._clients[key] = await asyncio.to_thread(_build, *key)
            return self._clients[key]

    async def _tidy(self) -> None:
        latest = self._clock() - self._idle
        unused = [key for key, client in self._clients.items() if client.users == 0]
        excess = len(self._clients) - self._size
        for number, key in enumerate(unused):
            if number < excess or self._clients[key].used_at < latest:
                await self._clients.pop(key).close()


def load_sdk() -> None:
    """Import the SDK with what it loads late, so that the first run does not wait a second or two for it."""
    import openai
    from openai.resources import conversations, responses

    _ = openai.DefaultAioHttpClient, conversations.AsyncConversations, responses.AsyncResponses


def _build(base_url: str, api_key: str) -> Client:
    import openai

    sdk = openai.AsyncOpenAI(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        http_client=openai.DefaultAioHttpClient(),
    )
    sdk.organization = sdk.project = None  # the environment's are the operator's, the key may be a caller's
    return Client(sdk, Wire(base_url, api_key))
