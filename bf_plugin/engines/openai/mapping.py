"""From the plugin's items, tools and options to the body of a Responses request.

Callers speak the Assistants API's language, the provider speaks Responses (OpenAI API reference, "Create a model
response"): tools are flat, `strict` defaults to true there and so is always sent, texts are typed by direction.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bf_plugin.engines.port import StepRequest
from bf_plugin.items import CodeInterpreterTool, FileSearchTool, FunctionTool, Item, Message, Part, Tool

PROVIDER_ARGS = frozenset(
    {
        "include",
        "max_tool_calls",
        "prompt_cache_key",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "text",
        "top_logprobs",
        "truncation",
    }
)
"""What of `provider_args` may reach the body; anything else could touch other tenants' state."""

_SAME_NAME = ("temperature", "top_p", "parallel_tool_calls")
_LEAST_TOKENS = 16


def body_of(request: StepRequest) -> dict[str, Any]:
    """Return the part of the body that does not depend on how the conversation is kept."""
    options = request.options
    body: dict[str, Any] = {"model": request.model}
    if request.instructions:
        body["instructions"] = request.instructions
    if request.tools:
        body["tools"] = [tool_of(tool) for tool in request.tools]
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    body.update({name: options[name] for name in _SAME_NAME if options.get(name) is not None})
    if (choice := _tool_choice(options.get("tool_choice"), request.number)) is not None:
        body["tool_choice"] = choice
    if request.max_tokens is not None:
        body["max_output_tokens"] = _budget(request.max_tokens, request.number)
    _merge_args(body, options.get("provider_args") or {})
    if (effort := options.get("reasoning_effort")) is not None:
        body["reasoning"] = {**body.get("reasoning", {}), "effort": effort}
    if (text_format := _text_format(options.get("response_format"))) is not None:
        body["text"] = {**body.get("text", {}), "format": text_format}
    return body


def input_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return items as a Responses `input`; messages that say nothing are left out."""
    return [mapped for item in items if (mapped := _item(item)) is not None]


def tool_of(tool: Tool) -> dict[str, Any]:
    """Return a tool definition in the Responses form."""
    if tool["type"] == "function":
        return _function(tool)
    if tool["type"] == "file_search":
        return _file_search(tool)
    return _code_interpreter(tool)


def _function(tool: FunctionTool) -> dict[str, Any]:
    mapped: dict[str, Any] = {
        "type": "function",
        "name": tool["name"],
        "parameters": tool.get("parameters") or {"type": "object", "properties": {}},
        "strict": bool(tool.get("strict", False)),
    }
    if tool.get("description"):
        mapped["description"] = tool["description"]
    return mapped


def _file_search(tool: FileSearchTool) -> dict[str, Any]:
    mapped: dict[str, Any] = {"type": "file_search", "vector_store_ids": list(tool["vector_store_ids"])}
    for name in ("max_num_results", "ranking_options", "filters"):
        if name in tool:
            mapped[name] = tool[name]
    return mapped


def _code_interpreter(tool: CodeInterpreterTool) -> dict[str, Any]:
    if "container" in tool:
        return {"type": "code_interpreter", "container": tool["container"]}
    container: dict[str, Any] = {"type": "auto"}
    if tool.get("file_ids"):
        container["file_ids"] = list(tool["file_ids"])
    return {"type": "code_interpreter", "container": container}


def _item(item: Item) -> dict[str, Any] | None:
    if item["type"] == "function_call":
        return {
            "type": "function_call",
            "call_id": item["call_id"],
            "name": item["name"],
            "arguments": item["arguments"],
        }
    if item["type"] == "function_output":
        return {"type": "function_call_output", "call_id": item["call_id"], "output": item["output"]}
    content = _content(item)
    return {"type": "message", "role": item["role"], "content": content} if content else None


def _content(message: Message) -> list[dict[str, Any]]:
    """Return a message's parts. What an assistant said is text only: there is no other kind of output to repeat."""
    if message["role"] == "assistant":
        texts = (part["text"] for part in message["content"] if part["type"] == "text")
        return [{"type": "output_text", "text": text, "annotations": []} for text in texts if text]
    return [_part(part) for part in message["content"]]


def _part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    if part["type"] == "image":
        source = {"file_id": part["file_id"]} if "file_id" in part else {"image_url": part.get("url", "")}
        return {"type": "input_image", **source, "detail": part.get("detail") or "auto"}
    if "file_id" in part:
        return {"type": "input_file", "file_id": part["file_id"]}
    if "url" in part:
        return {"type": "input_file", "file_url": part["url"]}
    filename = part.get("filename") or "file"
    return {"type": "input_file", "filename": filename, "file_data": _data_url(part.get("data", ""), filename)}


def _data_url(data: str, filename: str) -> str:
    """Return base64 as the data URL the provider wants; callers may send one already."""
    if data.startswith("data:"):
        return data
    return f"data:{mimetypes.guess_type(filename)[0] or 'application/octet-stream'};base64,{data}"


def _tool_choice(choice: Any, number: int) -> Any:
    """Return the choice. A forced call holds for the first step: repeated on every step, the run would never end."""
    if choice is None:
        return None
    if number > 1 and choice not in ("auto", "none"):
        return "auto"
    if isinstance(choice, Mapping) and isinstance(function := choice.get("function"), Mapping):
        return {"type": "function", "name": function.get("name")}
    return choice


def _budget(tokens: int, number: int) -> int:
    """Return the limit. The provider refuses less than 16, which the rest of a budget after some steps may well be;
    a first step's limit is the caller's own and goes as it is.
    """
    return tokens if number == 1 else max(tokens, _LEAST_TOKENS)


def _text_format(response_format: Any) -> dict[str, Any] | None:
    if not isinstance(response_format, Mapping):
        return None  # absent, or the Assistants' "auto"
    schema = response_format.get("json_schema")
    if response_format.get("type") == "json_schema" and isinstance(schema, Mapping):
        return {"type": "json_schema", **schema}
    return dict(response_format)


def _merge_args(body: dict[str, Any], args: Mapping[str, Any]) -> None:
    for name, value in args.items():
        name, _, inner = name.partition(".")
        if name in PROVIDER_ARGS:
            body[name] = {**body.get(name, {}), inner: value} if inner else value


def size_of(request: StepRequest, items: Sequence[Mapping[str, Any]]) -> int:
    """Return how many characters of text a request holds, to estimate its tokens where the server does not count."""
    return len(request.instructions or "") + sum(_length(item) for item in items)


def _length(item: Mapping[str, Any]) -> int:
    own = sum(len(item.get(name) or "") for name in ("arguments", "output"))
    return own + sum(len(part.get("text") or "") for part in item.get("content") or ())
