"""The engine of all these providers: it asks with the whole thread, and follows the answer to its end.

None of them can tell an answer a second time, so nothing is resumed; and none keeps a conversation, so the state is no
more than what the provider itself made of the present round of tool calls and wants to see again: signed thoughts.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import async_timeout

from bf_hook_providers.problems import lost, silent, unanswered
from bf_hook_providers.provider import Provider
from bf_hook_providers.review import review
from bf_hook_providers.stream import ProviderStream
from bf_hook_providers.turns import conversation
from bf_plugin import RunDraft, Usage
from bf_plugin.engines.port import Access, Cursor, Handle, State, StepRequest
from bf_plugin.errors import invalid
from bf_plugin.items import FunctionCall, Item


class ProviderEngine:
    """Implements the port's Engine over a Provider. One SDK client serves all runs, each request with its own key."""

    stateless = True

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._installed = _is_installed(provider.module)
        self._client: Any = None
        self._connecting = asyncio.Lock()

    def warm_up(self) -> None:
        """Load the SDK, if the provider was set up: it takes seconds, which the first run need not wait for."""
        if self._provider.section.model_fields_set and self._problem() is None:
            self._provider.load()

    def check(self, run: RunDraft, access: Access) -> Sequence[str]:
        """Look at a run before it exists: return what will be ignored, raise RequestError for what cannot be done."""
        if (problem := self._problem()) is not None:
            raise invalid("payload.provider", f"is not set up here: {problem}")
        if self._provider.needs_key and not self._key(access):
            raise invalid("payload.apiKey", f"is required: no key for provider {run.provider} is configured here")
        return list(review(self._provider, run))

    async def start(self, request: StepRequest, access: Access) -> ProviderStream:
        """Ask the model; return once the provider has begun to answer. Raises ProviderError."""
        key = self._key(access)
        kept = (request.state or {}).get("kept", ())
        items = [*await request.history(), *request.new]
        talk = conversation(request.instructions, items, kept)
        stream = ProviderStream(
            await self._ask(self._provider.body(request, talk), access, key),
            self._provider.reader(),
            name=f"{request.run_id}-{request.number}",
            silence=self._provider.section.silence,
            used=_call_ids(items),
            prompt=talk.size,
            problem_of=lambda error: self._provider.problem_of(error, key),
            remember=lambda calls, turn: _state(calls, turn, kept if request.number > 1 else ()),
        )
        try:
            await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> ProviderStream:
        """Raise: an answer is told once. The core asks for the step again if nothing of it was sealed."""
        raise lost(f"provider {self._provider.name} tells an answer only once")

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        """Return what an answer had used when its connection was closed, which is what stops it."""
        usage = handle.get("usage")
        return Usage(**usage) if isinstance(usage, Mapping) else None

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        """Return the state to keep for a thread whose step was cut off: the same, it names nothing at the provider."""
        return state

    async def aclose(self) -> None:
        """Close connections."""
        client, self._client = self._client, None
        if client is not None:
            await self._provider.close(client)

    async def _ask(self, body: Mapping[str, Any], access: Access, key: str) -> Any:
        try:
            client = await self._connected()
            async with async_timeout.timeout(self._provider.section.silence):
                return await self._provider.ask(client, body, self._headers(access), key)
        except asyncio.TimeoutError:
            raise silent(self._provider.section.silence) from None
        except Exception as error:  # whatever the SDK raises may hold the request, and with it the key
            raise self._provider.problem_of(error, key) or unanswered(error) from None

    async def _connected(self) -> Any:
        """Return the client, made when it is first needed: importing an SDK takes seconds."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._provider.connect()
            return self._client

    def _headers(self, access: Access) -> dict[str, str]:
        identified = {"X-Client-Request-Id": access.request_id} if access.request_id else {}
        return {**self._provider.section.plain_headers, **identified}

    def _key(self, access: Access) -> str:
        return access.api_key or self._provider.section.key

    def _problem(self) -> str | None:
        if not self._installed:
            return f"its SDK is missing, pip install 'bf-hook-providers[{self._provider.extra}]'"
        return self._provider.problem


def _state(calls: Sequence[FunctionCall], turn: Any, kept: Sequence[Mapping[str, Any]]) -> State | None:
    """Return the state after an answer: what was kept of this run's turns, as long as it goes on with calls."""
    if not calls:
        return None
    entries = [*kept] if turn is None else [*kept, {"calls": [call["call_id"] for call in calls], "turn": turn}]
    return {"kept": entries} if entries else None


def _call_ids(items: Sequence[Item]) -> set[str]:
    return {item["call_id"] for item in items if item["type"] == "function_call"}


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of it
        return False
