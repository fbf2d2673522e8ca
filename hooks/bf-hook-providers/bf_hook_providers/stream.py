"""The answer to one step while it is made; implements the port's Stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import async_timeout

from bf_hook_providers.problems import lost, silent, unanswered
from bf_hook_providers.provider import Chunks, Finish, Reader
from bf_hook_providers.text import Pieces, clean
from bf_plugin import ProviderError, Usage
from bf_plugin.engines.port import State, StepDone, Take, Text
from bf_plugin.items import FunctionCall, Item, text_message

_log = logging.getLogger(__name__)

_LAST_WORDS = 2.0
"""Seconds for what follows an ending: the count of tokens, and the end of the body, which frees the connection."""

_CHARACTERS_PER_TOKEN = 4
_END = object()

Remember = Callable[[Sequence[FunctionCall], Any], State | None]
"""Makes the state behind an answer of its calls and of what the provider wants to see again."""


class ProviderStream:
    """Hands on what the SDK's chunks say. `handle` names the answer for the log and for hooks: nothing can be resumed.

    `used` are the call ids of the thread, since some servers number the calls of each answer afresh. `prompt` is the
    number of characters asked. `problem_of` says what an exception means, if it says anything, `remember` what state an
    ending leaves.
    """

    def __init__(
        self,
        chunks: Chunks,
        reader: Reader,
        *,
        name: str,
        silence: float,
        used: Collection[str],
        prompt: int,
        problem_of: Callable[[Exception], ProviderError | None],
        remember: Remember,
    ) -> None:
        self.handle: dict[str, Any] = {"response_id": name}
        self._chunks = chunks
        self._reader = reader
        self._silence = silence
        self._used = set(used)
        self._prompt = prompt
        self._problem_of = problem_of
        self._remember = remember
        self._text = Pieces()
        self._first: str | None = None
        self._finished = False
        self._free = asyncio.Event()
        self._free.set()

    async def open(self) -> None:
        """Wait for the first chunk: by then the provider has accepted. Raises ProviderError when it refuses."""
        async with self._guarded(unanswered), async_timeout.timeout(self._silence):
            chunk = await anext(self._chunks, _END)
            if chunk is _END:
                raise lost("its stream ended before it began")
            self._first = self._reader.take(chunk)
        if self._reader.response_id:
            self.handle["response_id"] = self._reader.response_id

    async def read(self, take: Take) -> None:
        """Call `take` with each piece of text as it comes, and at last with a StepDone. Raises ProviderError."""
        self._show(self._first or "", take)
        await self._read(take)
        if not self._reader.over:
            raise lost("its stream ended before the answer was complete")
        finish = self._reader.finish()
        if rest := self._text.rest():
            take([Text(rest)])
        self._finished = True
        take([self._done(finish)])

    def hold(self, holding: bool) -> None:
        """Take no further chunk for now, or go on: the SDK reads no more than its buffers hold meanwhile."""
        if holding:
            self._free.clear()
        else:
            self._free.set()

    async def aclose(self) -> None:
        """Close the connection. What an answer that was broken off has used so far goes into its handle."""
        if not self._finished and (usage := self._reader.usage) is not None:
            self.handle["usage"] = self._so_far(usage).as_json()
        close: Any = getattr(self._chunks, "close", None) or getattr(self._chunks, "aclose", None)
        try:
            await close()
        except Exception as error:  # closing what is broken may fail, and nothing is left to do then
            _log.debug("provider connection did not close well: %s", type(error).__name__)

    async def _read(self, take: Take) -> None:
        async with self._guarded(_broken):
            while True:
                await self._free.wait()
                async with async_timeout.timeout(_LAST_WORDS if self._reader.over else self._silence):
                    chunk = await anext(self._chunks, _END)
                if chunk is _END:
                    return
                self._show(self._reader.take(chunk), take)

    def _show(self, piece: str, take: Take) -> None:
        if piece and (text := self._text.add(piece)):
            take([Text(text)])

    @asynccontextmanager
    async def _guarded(self, otherwise: Callable[[Exception], ProviderError]) -> AsyncIterator[None]:
        """Let nothing of the SDK out: what it raises may hold the request, and with it the key.

        Once the answer is complete nothing can go wrong any more.
        """
        try:
            yield
        except ProviderError:
            raise
        except asyncio.TimeoutError:
            if not self._reader.over:
                raise silent(self._silence) from None
        except Exception as error:
            if not self._reader.over:
                raise self._problem_of(error) or otherwise(error) from None

    def _done(self, finish: Finish) -> StepDone:
        calls = [self._unique(call) for call in finish.calls]
        text = str(self._text)
        said: list[Item] = [text_message("assistant", text)] if text else []
        length = len(text) + sum(len(call["arguments"]) for call in calls)
        return StepDone(
            state=self._remember(calls, finish.kept),
            items=[*said, *calls],
            calls=calls,
            content=[{"type": "text", "text": {"value": text}}] if text else [],
            usage=finish.usage if finish.usage and finish.usage.total_tokens else estimated(self._prompt, length),
            finish_reason=finish.finish_reason,
        )

    def _unique(self, call: FunctionCall) -> FunctionCall:
        call_id = clean(call["call_id"])
        if not call_id or call_id in self._used:
            call_id = f"call_{uuid4().hex[:24]}"
        self._used.add(call_id)
        return {
            "type": "function_call",
            "call_id": call_id,
            "name": clean(call["name"]),
            "arguments": clean(call["arguments"]),
        }

    def _so_far(self, usage: Usage) -> Usage:
        said = estimated(0, len(str(self._text))).completion_tokens
        completion = max(usage.completion_tokens, said)
        return Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=completion,
            total_tokens=usage.prompt_tokens + completion,
            estimated=True,
        )


def estimated(prompt: int, completion: int) -> Usage:
    """Return a guess at the tokens of texts of so many characters."""
    prompt, completion = -(-prompt // _CHARACTERS_PER_TOKEN), -(-completion // _CHARACTERS_PER_TOKEN)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion, estimated=True)


def _broken(error: Exception) -> ProviderError:
    return lost(f"its stream broke off ({type(error).__name__})")
