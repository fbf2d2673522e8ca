"""From the events of a stream to text, calls and an ending (Anthropic documentation, "Streaming messages")."""

from __future__ import annotations

import logging
from typing import Any

from bf_hook_providers.provider import Finish, Reader
from bf_hook_providers.text import arguments_of
from bf_plugin import Usage
from bf_plugin.items import FunctionCall
from bf_plugin.values import FinishReason

_log = logging.getLogger(__name__)

_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_GROWING = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input", "partial_json"),
}
"""By type of a delta: the field of the block that grows, and the field of the delta that it grows by."""

_THOUGHTS = ("thinking", "redacted_thinking")


class AnthropicReader(Reader):
    """Reads the SDK's events, by their type's name: what is new to it is passed over."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._reason: str | None = None
        self._category: str | None = None
        self._counts: dict[str, int] = {}

    def take(self, chunk: Any) -> str:
        """Return the text in an event."""
        kind = getattr(chunk, "type", "")
        if kind == "message_start":
            self.response_id = getattr(chunk.message, "id", None)
            self._count(getattr(chunk.message, "usage", None))
        elif kind == "content_block_start":
            return self._begin(chunk.index, chunk.content_block)
        elif kind == "content_block_delta":
            return self._grow(chunk.index, chunk.delta)
        elif kind == "message_delta":
            self._count(getattr(chunk, "usage", None))
            self._end(chunk.delta)
        return ""

    def finish(self) -> Finish:
        """Return how the answer ended. Calls of one that was cut off are dropped: their arguments may be so too."""
        reason = self._finish_reason()
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        calls = [_call(block) for block in blocks if block["type"] == "tool_use"] if reason == "stop" else []
        thinks = any(block["type"] in _THOUGHTS for block in blocks)
        kept = [_as_sent(block) for block in blocks if block["type"] != "text" or block["text"].strip()]
        return Finish(finish_reason=reason, calls=calls, usage=self.usage, kept=kept if thinks and calls else None)

    def _finish_reason(self) -> FinishReason:
        reason = str(self._reason)
        if reason not in _REASONS:
            _log.warning("provider anthropic ended an answer for an unknown reason: %s", reason)
        if self._category:
            _log.info("provider anthropic refused to answer: %s", self._category)
        return _REASONS.get(reason, "stop")

    def _begin(self, index: int, block: Any) -> str:
        kind = getattr(block, "type", "")
        if kind == "text":
            self._blocks[index] = {"type": kind, "text": block.text or ""}
            return str(block.text or "")
        if kind == "tool_use":
            self._blocks[index] = {"type": kind, "id": block.id, "name": block.name, "input": ""}
        elif kind == "thinking":
            thinking, signature = getattr(block, "thinking", None), getattr(block, "signature", None)
            self._blocks[index] = {"type": kind, "thinking": thinking or "", "signature": signature or ""}
        elif kind == "redacted_thinking":
            self._blocks[index] = {"type": kind, "data": block.data}
        return ""

    def _grow(self, index: int, delta: Any) -> str:
        names, block = _GROWING.get(getattr(delta, "type", "")), self._blocks.get(index)
        if names is None or block is None or names[0] not in block:
            return ""
        piece = str(getattr(delta, names[1], None) or "")
        block[names[0]] += piece
        return piece if names[0] == "text" else ""

    def _end(self, delta: Any) -> None:
        if (reason := getattr(delta, "stop_reason", None)) is not None:
            self._reason, self.over = reason, True
            self._category = getattr(getattr(delta, "stop_details", None), "category", None)

    def _count(self, usage: Any) -> None:
        """Take the counts, which grow: those of the last event are those of the whole answer."""
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
        counts = {name: getattr(usage, name, None) for name in names}
        self._counts.update({name: count for name, count in counts.items() if isinstance(count, int)})
        completion = self._counts.get("output_tokens", 0)
        prompt = sum(self._counts.values()) - completion
        self.usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _call(block: dict[str, Any]) -> FunctionCall:
    return {"type": "function_call", "call_id": block["id"], "name": block["name"], "arguments": block["input"] or "{}"}


def _as_sent(block: dict[str, Any]) -> dict[str, Any]:
    """Return a block in the form in which a request has it."""
    return {**block, "input": arguments_of(block["input"])} if block["type"] == "tool_use" else dict(block)
