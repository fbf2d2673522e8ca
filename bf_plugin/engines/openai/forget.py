"""Deleting what the provider keeps of a thread: its responses, and the conversations they stood in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bf_plugin.engines.openai.api import Api
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.port import Handle
from bf_plugin.runtime.logs import get_logger

_log = get_logger(__name__)

_TOGETHER = 8


async def forget(names: Sequence[Handle], api: Api) -> bool:
    """Delete what `names` (handles, a state) name; tell whether nothing of it is left. What is not found is gone."""
    places = asyncio.Semaphore(_TOGETHER)

    async def gone(delete: Callable[[str], Awaitable[None]], name: str) -> bool:
        async with places:
            try:
                await delete(name)
            except Problem as problem:
                if problem.status != 404:
                    _log.warning("the provider keeps something of a deleted thread: %s", problem)
                    return False
            return True

    stored = [name for name in names if name.get("mode") != "local"]
    responses = {name["response_id"] for name in stored if name.get("response_id")}
    conversations = {name["conversation"] for name in stored if name.get("conversation")}
    return all(
        await asyncio.gather(
            *(gone(api.delete_response, name) for name in responses),
            *(gone(api.delete_conversation, name) for name in conversations),
        )
    )
