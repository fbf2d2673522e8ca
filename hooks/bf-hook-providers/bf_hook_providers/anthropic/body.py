"""From a step to the body of `POST /v1/messages` (Anthropic API reference, "Create a Message")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bf_hook_providers.media import UNSEEN, inline, media_type
from bf_hook_providers.sections import AnthropicSection
from bf_hook_providers.text import arguments_of
from bf_hook_providers.turns import Conversation, Turn
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, FunctionTool, ImagePart, Part, Tool

BEFORE = "[The conversation begins with what the assistant says.]"
"""Said by nobody: the API wants the first turn to be the user's."""

IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

_ID = re.compile(r"[^a-zA-Z0-9_-]")
_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh"}
_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768}
_LEAST_BUDGET = 1024


def body_of(request: StepRequest, talk: Conversation, section: AnthropicSection) -> dict[str, Any]:
    """Return the body of a step."""
    options = request.options
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens or section.max_tokens,
        "messages": list(_messages(talk.turns)),
    }
    if talk.system:
        body["system"] = talk.system
    if section.prompt_cache:
        body["cache_control"] = {"type": "ephemeral"}
    body.update({name: options[name] for name in ("temperature", "top_p") if options.get(name) is not None})
    body.update(_tools(request.tools, options, request.number, talk.turns))
    if user := (options.get("provider_args") or {}).get("safety_identifier"):
        body["metadata"] = {"user_id": user}
    _add_reasoning(body, options.get("reasoning_effort"), section, talk.turns)
    if schema := ((options.get("response_format") or {}).get("json_schema") or {}).get("schema"):
        body["output_config"] = {**body.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return body


def part_problem(part: ImagePart | FilePart) -> str | None:
    """Return why an image or a file has no form in this API."""
    if file_id := part.get("file_id"):
        return None if file_id.startswith("file_") else "is no file of Anthropic: their ids begin with file_"
    sent = inline(part)
    kind = sent[0] if sent else media_type(part)
    if part["type"] == "image":
        if sent is None and part.get("url", "").startswith("data:"):
            return "is no base64 data URL"
        return None if sent is None or kind in IMAGES else f"is {kind}: there are {', '.join(sorted(IMAGES))}"
    if kind == "application/pdf" or (sent and kind == "text/plain"):
        return None
    return f"is {kind or 'of no known type'}: PDF, and text that is sent along, can be read"


def _messages(turns: Sequence[Turn]) -> Iterator[dict[str, Any]]:
    if turns and turns[0].role == "assistant":
        yield {"role": "user", "content": BEFORE}
    for turn in turns:
        content = _said(turn) if turn.role == "assistant" else _asked(turn)
        yield {"role": turn.role, "content": content}


def _said(turn: Turn) -> list[dict[str, Any]]:
    """Return an assistant's turn, as the API itself gave it where that is known: signed thoughts must not change."""
    if turn.kept is not None:
        return list(turn.kept)
    texts = [{"type": "text", "text": part["text"]} for part in turn.parts if part["type"] == "text"]
    calls = [
        {
            "type": "tool_use",
            "id": _id(call["call_id"]),
            "name": call["name"],
            "input": arguments_of(call["arguments"]),
        }
        for call in turn.calls
    ]
    return [*texts, *calls]


def _asked(turn: Turn) -> list[dict[str, Any]]:
    """Return a user's turn. Results come first: the API takes nothing between a call and them."""
    results = [_result(call["call_id"], text) for call, text in turn.outputs]
    return [*results, *(_part(part) for part in turn.parts)]


def _result(call_id: str, text: str) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(call_id)}
    return {**result, "content": text} if text.strip() else result


def _part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part_problem(part) is not None:
        return {"type": "text", "text": UNSEEN}
    block = "image" if part["type"] == "image" else "document"
    if file_id := part.get("file_id"):
        return {"type": block, "source": {"type": "file", "file_id": file_id}}
    sent = inline(part)
    if sent is None:
        return {"type": block, "source": {"type": "url", "url": part.get("url", "")}}
    kind, data = sent
    if kind == "text/plain":
        return {"type": block, "source": {"type": "text", "media_type": kind, "data": _decoded(data)}}
    return {"type": block, "source": {"type": "base64", "media_type": kind, "data": data}}


def _decoded(data: str) -> str:
    import base64
    import binascii

    try:
        return base64.b64decode(data).decode("utf-8", "replace")
    except binascii.Error:
        return UNSEEN


def _tools(
    tools: Sequence[Tool], options: Mapping[str, Any], number: int, turns: Sequence[Turn]
) -> Iterator[tuple[str, Any]]:
    """Yield `tools` and `tool_choice`.

    A thread with calls is refused where no tools are given, so those it once had stand in for them, not to be called.
    """
    functions = [_tool(tool) for tool in tools if tool["type"] == "function"]
    if functions:
        yield "tools", functions
        yield "tool_choice", _choice(options.get("tool_choice"), number, parallel=options.get("parallel_tool_calls"))
    elif names := dict.fromkeys(call["name"] for turn in turns for call in turn.calls):
        yield "tools", [{"name": name, "input_schema": {"type": "object"}} for name in names]
        yield "tool_choice", {"type": "none"}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    mapped: dict[str, Any] = {"name": tool["name"], "input_schema": {"type": "object", **tool["parameters"]}}
    if tool.get("description"):
        mapped["description"] = tool["description"]
    if tool.get("strict"):
        mapped["strict"] = True
    return mapped


def _choice(choice: Any, number: int, *, parallel: bool | None) -> dict[str, Any]:
    """Return the choice. A forced call holds for the first step: repeated on every step, the run would never end."""
    mapped: dict[str, Any] = {"type": "auto"}
    if choice == "none":
        return {"type": "none"}
    if number == 1 and choice == "required":
        mapped = {"type": "any"}
    elif number == 1 and isinstance(choice, Mapping):
        mapped = {"type": "tool", "name": choice["function"]["name"]}
    return {**mapped, "disable_parallel_tool_use": True} if parallel is False else mapped


def _add_reasoning(body: dict[str, Any], effort: Any, section: AnthropicSection, turns: Sequence[Turn]) -> None:
    if effort == "none":
        body["thinking"] = {"type": "disabled"}
    elif effort is not None and section.reasoning == "adaptive":
        body["thinking"] = {"type": "adaptive"}
        body["output_config"] = {"effort": _EFFORTS[effort]}
    elif effort is not None and not _lacks_thoughts(turns):
        budget = min(_BUDGETS[effort], body["max_tokens"] - 1)
        if budget >= _LEAST_BUDGET:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _lacks_thoughts(turns: Sequence[Turn]) -> bool:
    """Tell whether calls are answered whose thoughts are not known: with a budget the API refuses to go on thinking."""
    last = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
    return last is not None and bool(last.calls) and last.kept is None


def _id(call_id: str) -> str:
    """Return a call's id as the API takes it; other providers' may hold anything."""
    return _ID.sub("_", call_id)
