"""From a step to the body of `POST /chat/completions` (OpenAI API reference, "Create chat completion")."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bf_hook_providers.media import UNSEEN, inline
from bf_hook_providers.sections import ChatSection
from bf_hook_providers.turns import Conversation, Turn
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, FunctionTool, ImagePart, Part

ARGUMENTS = ("safety_identifier", "prompt_cache_key", "service_tier")
"""What of `providerArgs` chat completions know under the same name; `text.verbosity` is theirs without `text`."""

_LONGEST_ID = 40
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


def body_of(request: StepRequest, talk: Conversation, section: ChatSection) -> dict[str, Any]:
    """Return the body of a step, what the server does not take left out."""
    options = request.options
    body: dict[str, Any] = {"model": request.model, "messages": list(_messages(talk, section)), "stream": True}
    if "stream_options" not in section.without:
        body["stream_options"] = {"include_usage": True}
    body.update({name: options[name] for name in ("temperature", "top_p") if options.get(name) is not None})
    if request.max_tokens is not None:
        body[section.max_tokens_field] = request.max_tokens
    if functions := [tool for tool in request.tools if tool["type"] == "function"]:
        body["tools"] = [_tool(tool, section) for tool in functions]
        body.update(_choice(options, request.number, section))
    if (effort := options.get("reasoning_effort")) is not None and "reasoning_effort" not in section.without:
        body["reasoning_effort"] = effort
    if (response_format := options.get("response_format")) and response_format.get("type") != "text":
        body["response_format"] = response_format
    body.update(_arguments(options.get("provider_args") or {}))
    return body


def part_problem(part: ImagePart | FilePart) -> str | None:
    """Return why an image or a file has no form in chat completions."""
    if part.get("file_id"):
        return "is at another provider: send it along, or its URL"
    if part["type"] == "file" and inline(part) is None:
        return "is at a URL: send it along"
    return None


def _messages(talk: Conversation, section: ChatSection) -> Iterator[dict[str, Any]]:
    ids = _short_id if section.short_call_ids else _bounded_id
    if talk.system:
        yield {"role": "developer" if section.developer_role else "system", "content": talk.system}
    for turn in talk.turns:
        if turn.role == "assistant":
            yield _said(turn, ids)
            continue
        for call, text in turn.outputs:
            yield {"role": "tool", "tool_call_id": ids(call["call_id"]), "content": text}
        if turn.parts:
            yield {"role": "user", "content": _content(turn)}


def _said(turn: Turn, ids: Callable[[str], str]) -> dict[str, Any]:
    """Return an assistant's message; servers whose models reason between calls want that back with them."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None, **(turn.kept or {})}
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": ids(call["call_id"]),
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"] or "{}"},
            }
            for call in turn.calls
        ]
    return message


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    """Return text alone as a string: not every server takes it in parts."""
    if all(part["type"] == "text" for part in turn.parts):
        return turn.text
    return [_part(part) for part in turn.parts]


def _part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part_problem(part) is not None:
        return {"type": "text", "text": UNSEEN}
    if part["type"] == "image":
        image = {"url": part.get("url", "")}
        return {"type": "image_url", "image_url": {**image, "detail": part["detail"]} if part.get("detail") else image}
    kind, data = inline(part) or ("", "")
    file = {"filename": part.get("filename") or "file", "file_data": f"data:{kind};base64,{data}"}
    return {"type": "file", "file": file}


def _tool(tool: FunctionTool, section: ChatSection) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool["name"], "parameters": tool["parameters"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    if tool.get("strict") and "strict" not in section.without:
        function["strict"] = True
    return {"type": "function", "function": function}


def _choice(options: Mapping[str, Any], number: int, section: ChatSection) -> Iterator[tuple[str, Any]]:
    """Yield how tools are called. A forced call holds for the first step: repeated, the run would never end."""
    choice, parallel = options.get("tool_choice"), options.get("parallel_tool_calls")
    if choice is not None:
        yield "tool_choice", choice if number == 1 or choice in ("auto", "none") else "auto"
    if parallel is not None and "parallel_tool_calls" not in section.without:
        yield "parallel_tool_calls", parallel


def _arguments(args: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((name, args[name]) for name in ARGUMENTS if name in args)
    if verbosity := (args.get("text") or {}).get("verbosity"):
        yield "verbosity", verbosity


def _bounded_id(call_id: str) -> str:
    """Return an id of at most 40 characters, as OpenAI wants it; other providers' may be longer."""
    return call_id if len(call_id) <= _LONGEST_ID else f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def _short_id(call_id: str) -> str:
    """Return an id of nine letters and digits."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    digest = base64.b32encode(hashlib.sha256(call_id.encode()).digest()).decode()
    return digest[:9]
