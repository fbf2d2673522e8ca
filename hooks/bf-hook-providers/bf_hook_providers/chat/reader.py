"""From the chunks of a stream to text, calls and an ending (OpenAI API reference, "The chat completion chunk object").

Many servers speak this, and differ: where the reasoning stands, whether calls are numbered, whether tokens are counted.
"""

from __future__ import annotations

import logging
from typing import Any

from bf_hook_providers.problems import failure
from bf_hook_providers.provider import Finish, Reader
from bf_plugin import Usage
from bf_plugin.items import FunctionCall
from bf_plugin.values import FinishReason

_log = logging.getLogger(__name__)

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "content_filter": "content_filter",
}
_FAILURES = frozenset({"error", "abort", "insufficient_system_resource"})
"""OpenRouter's, vLLM's and DeepSeek's words for an answer that failed on the way."""

_REASONING = ("reasoning_content", "reasoning")
"""Where DeepSeek, llama.cpp and others, and where vLLM and OpenRouter, put what a model thinks."""


class ChatReader(Reader):
    """Reads the SDK's chunks, without trusting that a server sends all that the SDK's types promise."""

    def __init__(self) -> None:
        self._calls: list[FunctionCall] = []
        self._places: dict[int, int] = {}
        self._thoughts: dict[str, list[str]] = {}
        self._reason: str | None = None

    def take(self, chunk: Any) -> str:
        """Return the text in a chunk; a refusal is shown as text."""
        self.response_id = self.response_id or getattr(chunk, "id", None) or None
        self._count(getattr(chunk, "usage", None))
        texts = []
        for choice in (getattr(chunk, "choices", None) or ())[:1]:
            delta = getattr(choice, "delta", None)
            texts += [getattr(delta, name, None) or "" for name in ("content", "refusal")]
            self._think(delta)
            for call in getattr(delta, "tool_calls", None) or ():
                self._take_call(call)
            if reason := getattr(choice, "finish_reason", None):
                self._reason, self.over = str(reason), True
        return "".join(text for text in texts if isinstance(text, str))

    def finish(self) -> Finish:
        """Return how the answer ended. Calls of one that was cut off are dropped: their arguments may be so too."""
        reason = str(self._reason)
        if reason in _FAILURES:
            raise failure(f"the server ended the answer with {reason}", code=reason, key="")
        if reason not in _REASONS:
            _log.warning("provider chat ended an answer for an unknown reason: %s", reason)
        finish_reason = _REASONS.get(reason, "stop")
        calls = self._calls if finish_reason == "stop" else []
        kept = {name: "".join(parts) for name, parts in self._thoughts.items()}
        return Finish(finish_reason=finish_reason, calls=calls, usage=self.usage, kept=kept if calls and kept else None)

    def _think(self, delta: Any) -> None:
        for name in _REASONING:
            if (thought := getattr(delta, name, None)) and isinstance(thought, str):
                self._thoughts.setdefault(name, []).append(thought)

    def _take_call(self, delta: Any) -> None:
        """Take a piece of a call. Some servers send whole calls, all under one number or under none."""
        call = self._call_at(getattr(delta, "index", None), getattr(delta, "id", None))
        function = getattr(delta, "function", None)
        call["name"] += getattr(function, "name", None) or ""
        call["arguments"] += getattr(function, "arguments", None) or ""

    def _call_at(self, index: int | None, call_id: str | None) -> FunctionCall:
        place = len(self._calls) - 1 if index is None else self._places.get(index, -1)
        if place < 0 or (call_id and self._calls[place]["call_id"] not in ("", call_id)):
            place = len(self._calls)
            self._calls.append({"type": "function_call", "call_id": "", "name": "", "arguments": ""})
        if index is not None:
            self._places[index] = place
        self._calls[place]["call_id"] = call_id or self._calls[place]["call_id"]
        return self._calls[place]

    def _count(self, usage: Any) -> None:
        prompt, completion = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if isinstance(prompt, int) and isinstance(completion, int):
            total = getattr(usage, "total_tokens", None) or prompt + completion
            self.usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)
