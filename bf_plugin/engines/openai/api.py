"""The calls the engine makes: streams over the wire itself, all others through the SDK, without its parsing.

Bodies go as they are (`extra_body`) and answers are decoded here: no pydantic model is built, and what a newer or an
independent server sends does not have to fit the installed SDK's types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bf_plugin.engines.openai.clients import Client, Sdk
from bf_plugin.engines.openai.decode import loads
from bf_plugin.engines.openai.problems import Problem, problem_of
from bf_plugin.engines.openai.wire import Reply
from bf_plugin.engines.port import Access
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.tracecontext import trace_headers

if TYPE_CHECKING:
    from openai import AsyncAPIResponse
    from openai._response import AsyncResponseContextManager

    Pending = AsyncResponseContextManager[AsyncAPIResponse[Any]]

_log = get_logger(__name__)

CALL_TIMEOUT = 30.0
PAGE = 100
PAGES = 3
"""How far back a conversation is read at most; some servers say `has_more` for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the engine waits for what, in seconds.

    `silence` is the longest time without a real event before the connection of a response that can be resumed counts as
    lost. `long_silence` is that of any other, and of an answer's head: models on a machine of one's own, and those that
    reason, may say nothing for minutes. `resume_waits` come before each attempt in a row that brings nothing new,
    `lock_waits` before each new try at a locked conversation. A background response is polled until it ends, every
    `poll` seconds; another at most `foreground_polls` times.
    """

    silence: float = 60.0
    long_silence: float = 300.0
    poll: float = 2.0
    poll_failures: int = 5
    foreground_polls: int = 3
    resume_waits: tuple[float, ...] = (0.0, 1.0, 3.0)
    lock_waits: tuple[float, ...] = (1.0, 2.0, 4.0)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class Api:
    """One access's view of the provider. Every method raises Problem when it fails."""

    def __init__(self, client: Client, access: Access, *, head_timeout: float) -> None:
        self._sdk = client.sdk
        self._wire = client.wire
        headers = trace_headers(access.traceparent, access.tracestate)
        if access.request_id:
            headers["X-Client-Request-Id"] = access.request_id
        self._streamed: dict[str, Any] = {"headers": headers, "timeout": head_timeout}
        self._plain: dict[str, Any] = {"extra_headers": headers, "timeout": CALL_TIMEOUT}
        self.key = access.api_key

    async def create(self, body: Mapping[str, Any]) -> Reply:
        """Ask for a response. Never repeated here: the SDK sends no idempotency key."""
        return await self._wire.ask("POST", "/responses", body=body, **self._streamed)

    async def resume(self, response_id: str, cursor: int) -> Reply:
        """Follow a background response from the event after `cursor`."""
        path = f"/responses/{quote(response_id, safe='')}?stream=true&starting_after={cursor}"
        return await self._wire.ask("GET", path, **self._streamed)

    async def retrieve(self, response_id: str) -> dict[str, Any]:
        """Return a response as it is now."""
        return await self._json(lambda sdk: sdk.patient.responses.retrieve(response_id, **self._plain))

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """Cancel a background response."""
        return await self._json(lambda sdk: sdk.patient.responses.cancel(response_id, **self._plain))

    async def delete_response(self, response_id: str) -> None:
        """Delete a stored response."""
        await _close(await self._open(lambda sdk: sdk.patient.responses.delete(response_id, **self._plain)))

    async def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation with its items."""
        await _close(await self._open(lambda sdk: sdk.patient.conversations.delete(conversation, **self._plain)))

    async def create_conversation(self, items: Sequence[Mapping[str, Any]]) -> str:
        """Create a conversation that holds `items` (at most 20) and return its id."""
        body = {"items": list(items)}
        created = await self._json(lambda sdk: sdk.once.conversations.create(extra_body=body, **self._plain))
        return str(created.get("id"))

    async def add_items(self, conversation: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Append `items` (at most 20) to a conversation."""
        body = {"items": list(items)}
        await self._json(lambda sdk: sdk.once.items.create(conversation, items=[], extra_body=body, **self._plain))

    async def newest_items(self, conversation: str, until: str | None) -> list[dict[str, Any]]:
        """Return a conversation's items, newest first, back to the one called `until` or as far as is sensible."""
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": PAGE, "order": "desc"}
        for _ in range(PAGES):
            page = await self._json(lambda sdk: sdk.patient.items.list(conversation, extra_query=query, **self._plain))
            items = [item for item in page.get("data") or () if isinstance(item, dict)]
            found += items
            if not items or not page.get("has_more") or any(item.get("id") == until for item in items):
                break
            query["after"] = items[-1].get("id")
        return found

    async def _open(self, call: Callable[[Sdk], Pending]) -> AsyncAPIResponse[Any]:
        sdk = await self._sdk()
        try:
            return await call(sdk).__aenter__()
        except Exception as error:  # whatever the SDK raises may hold the request, and with it the key
            raise problem_of(error, self.key) from None

    async def _json(self, call: Callable[[Sdk], Pending]) -> dict[str, Any]:
        response = await self._open(call)
        try:
            answer = loads(await response.read())
        except Exception as error:  # as above
            raise problem_of(error, self.key) from None
        finally:
            await _close(response)
        if not isinstance(answer, dict):
            raise Problem("the provider answered with something else than an object", code="provider_error")
        return answer


async def _close(response: AsyncAPIResponse[Any]) -> None:
    try:
        await response.close()
    except Exception as error:  # closing what is broken may fail, and nothing is left to do then
        _log.debug("provider connection did not close well: %s", type(error).__name__)
