"""From the responses of a stream to text, calls and an ending (Gemini API reference, "GenerateContentResponse")."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

from bf_hook_providers.problems import failure
from bf_hook_providers.provider import Finish, Reader
from bf_plugin import Usage
from bf_plugin.items import FunctionCall
from bf_plugin.values import FinishReason

_log = logging.getLogger(__name__)

_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "FUNCTION_CALL": "stop",  # not Google's word: aimock's, and so perhaps a gateway's
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}


class GeminiReader(Reader):
    """Reads the SDK's responses."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._calls: list[FunctionCall] = []
        self._reason: str | None = None
        self._blocked = False

    def take(self, chunk: Any) -> str:
        """Return the text in a response; thoughts are not shown."""
        self.response_id = self.response_id or getattr(chunk, "response_id", None)
        self._count(getattr(chunk, "usage_metadata", None))
        self._see_blocked(getattr(chunk, "prompt_feedback", None))
        texts = []
        for candidate in (getattr(chunk, "candidates", None) or ())[:1]:
            content = getattr(candidate, "content", None)
            texts += [self._part(part) for part in getattr(content, "parts", None) or ()]
            if (reason := _name(getattr(candidate, "finish_reason", None))) is not None:
                self._reason, self.over = reason, True
        return "".join(texts)

    def finish(self) -> Finish:
        """Return how the answer ended. Raises ProviderError where the model did not find its way to an end."""
        reason: FinishReason = "content_filter" if self._blocked else self._finish_reason()
        calls = self._calls if reason == "stop" else []
        return Finish(finish_reason=reason, calls=calls, usage=self.usage, kept=self._parts if calls else None)

    def _finish_reason(self) -> FinishReason:
        reason = str(self._reason)
        if reason not in _REASONS:
            raise failure(f"the model ended with {reason}", code=reason.lower(), key="")
        return _REASONS[reason]

    def _part(self, part: Any) -> str:
        signature = getattr(part, "thought_signature", None)
        signed = {"thought_signature": base64.b64encode(signature).decode()} if signature else {}
        if (call := getattr(part, "function_call", None)) is not None:
            self._take_call(call, signed)
            return ""
        text = getattr(part, "text", None) or ""
        if getattr(part, "thought", None):
            return ""
        self._take_text(text, signed)
        return text

    def _take_text(self, text: str, signed: dict[str, Any]) -> None:
        last = self._parts[-1] if self._parts else {}
        if text and not signed and "text" in last and "thought_signature" not in last:
            last["text"] += text
        elif text or signed:
            self._parts.append({"text": text, **signed})

    def _take_call(self, call: Any, signed: dict[str, Any]) -> None:
        name, args = call.name or "", call.args or {}
        identified = {"id": call.id} if call.id else {}
        self._parts.append({"function_call": {**identified, "name": name, "args": args}, **signed})
        arguments = json.dumps(args, ensure_ascii=False)
        self._calls.append({"type": "function_call", "call_id": call.id or "", "name": name, "arguments": arguments})

    def _see_blocked(self, feedback: Any) -> None:
        if (reason := _name(getattr(feedback, "block_reason", None))) is not None:
            _log.info("provider gemini blocked a prompt: %s", reason)
            self._blocked = self.over = True

    def _count(self, usage: Any) -> None:
        if usage is None:
            return
        prompt = _sum(usage, "prompt_token_count", "tool_use_prompt_token_count")
        completion = _sum(usage, "candidates_token_count", "thoughts_token_count")
        total = _sum(usage, "total_token_count") or prompt + completion
        self.usage = Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _name(value: Any) -> str | None:
    """Return an enumeration's value, or text where the SDK does not know it; None for none, or an unspecified one."""
    text = None if value is None else str(getattr(value, "value", value))
    return None if text is None or text.endswith("_UNSPECIFIED") else text


def _sum(usage: Any, *names: str) -> int:
    return sum(getattr(usage, name, None) or 0 for name in names)
