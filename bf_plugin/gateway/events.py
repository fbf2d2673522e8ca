"""The events a page receives, and the messages that carry them.

Their shapes are the published ones; `threadId`, `runId`, `seq` and a delta's `offset` are added, so that a handler can
place each character once over reconnects, retries and crashes. Nothing a model, a tool or an upstream error produced
may become an object key: a BetterForms page evaluates keys that end in `_calc`, `_function` and the like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bf_plugin.runtime.text import well_formed_tree
from bf_plugin.values import Usage

DELTA_LIMIT = 8192
"""UTF-16 units one delta may hold; longer text is cut into several."""

_encode = msgspec.json.Encoder().encode


def thread_info(thread_id: str, run_id: str) -> dict[str, Any]:
    """Return the first event of a run."""
    return {"type": "threadInfo", "content": {"assistantThreadId": thread_id, "runId": run_id}}


def delta(text: str, offset: int) -> dict[str, Any]:
    """Return a piece of text; `offset` counts the UTF-16 units of the run's text before it."""
    return {"type": "delta", "content": text, "offset": offset}


def function_call(calls: Sequence[tuple[str, str | None, str | None]]) -> dict[str, Any]:
    """Return the event of one step's calls: (name, user message, id of a browser tool call)."""
    functions = [{"name": name, "userMessage": message} for name, message, _ in calls]
    browser = [{"name": name, "toolCallId": call_id} for name, _, call_id in calls if call_id is not None]
    return {"type": "function_call", "content": {"functions": functions}, **({"calls": browser} if browser else {})}


def error(message: str, code: str | int, details: str | None) -> dict[str, Any]:
    """Return the event that says why a run failed; `end` follows."""
    return {"type": "error", "error": {"message": message, "code": code, "details": details}, "content": message}


def end(finish_reason: str, usage: Usage) -> dict[str, Any]:
    """Return the last event of a run, whatever happened."""
    counts = usage.as_json()
    counts.pop("estimated", None)
    return {"type": "end", "finish_reason": finish_reason, "usage": counts}


def utf16_length(text: str) -> int:
    """Return what JavaScript calls the length of `text`."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def pieces(text: str, limit: int = DELTA_LIMIT) -> list[str]:
    """Cut `text` into parts of at most `limit` UTF-16 units, never inside a surrogate pair."""
    if utf16_length(text) <= limit:
        return [text]
    cut, size, parts = 0, 0, []
    for position, character in enumerate(text):
        width = 2 if character > "\uffff" else 1
        if size + width > limit:
            parts.append(text[cut:position])
            cut, size = position, 0
        size += width
    return [*parts, text[cut:]]


def named_action(event: Mapping[str, Any], name: str, style: str) -> dict[str, Any]:
    """Return the BetterForms action that carries `event` in the operator's `BF_EVENT_STYLE`."""
    flat = {} if style == "data" else event
    nested = {} if style == "options" else {"data": event}
    options = {**flat, **nested}
    return {"action": "namedAction", "name": name, "options": options}


def encode_message(actions: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the JSON text of a message. Lone surrogates, as a provider's error may quote them, are replaced."""
    try:
        return _encode({"actions": actions})
    except UnicodeEncodeError:
        return _encode({"actions": well_formed_tree(actions)})


def step_texts(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a run's text in parts: what was said before, between and after its steps' tool calls."""
    texts = [""]
    for event in events:
        if event["type"] == "delta":
            texts[-1] += event["content"]
        elif event["type"] == "function_call":
            texts.append("")
    return texts


def events_in(body: bytes) -> list[dict[str, Any]]:
    """Return the events a message carries, whatever style it was written in."""
    found = []
    for action in msgspec.json.decode(body)["actions"]:
        if action["action"] == "namedAction":
            options = action["options"]
            found.append(options.get("data", options))
    return found


def tool_calls_in(body: bytes) -> set[str]:
    """Return the ids of the browser tool calls that a message asks for."""
    actions = msgspec.json.decode(body)["actions"]
    return {action["options"]["toolCallId"] for action in actions if action["action"] == "llmToolCall"}
