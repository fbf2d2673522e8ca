"""From a step to contents and configuration of `models.streamGenerateContent` (Gemini API reference)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bf_hook_providers.media import UNSEEN, inline, media_type
from bf_hook_providers.sections import GeminiSection
from bf_hook_providers.text import arguments_of
from bf_hook_providers.turns import Conversation, Turn
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, FunctionTool, ImagePart, Part

BEFORE = "[The conversation begins with what the assistant says.]"
"""Said by nobody: the API wants the first turn to be the user's."""

_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "XHIGH"}
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576}
"""Those of Google's own mapping (Gemini API documentation, "OpenAI compatibility")."""


def body_of(request: StepRequest, talk: Conversation, section: GeminiSection) -> dict[str, Any]:
    """Return model, contents and config of a step."""
    options = request.options
    config: dict[str, Any] = {"automatic_function_calling": {"disable": True}}
    if talk.system:
        config["system_instruction"] = {"parts": [{"text": talk.system}]}
    config.update({name: options[name] for name in ("temperature", "top_p") if options.get(name) is not None})
    if request.max_tokens is not None:
        config["max_output_tokens"] = request.max_tokens
    if functions := [tool for tool in request.tools if tool["type"] == "function"]:
        config["tools"] = [{"function_declarations": [_declaration(tool) for tool in functions]}]
        calling = _calling(options.get("tool_choice"), request.number, functions)
        config["tool_config"] = {"function_calling_config": calling}
    if (effort := options.get("reasoning_effort")) is not None:
        config["thinking_config"] = _thinking(effort, section)
    config.update(_format(options.get("response_format") or {}))
    return {"model": request.model, "contents": list(_contents(talk.turns, section)), "config": config}


def part_problem(part: ImagePart | FilePart) -> str | None:
    """Return why an image or a file has no form in this API."""
    if file_id := part.get("file_id"):
        return None if file_id.startswith("files/") else "is no file of Gemini: their ids begin with files/"
    sent = inline(part)
    if sent is None and part.get("url", "").startswith("data:"):
        return "is no base64 data URL"
    if sent is None and media_type(part) is None and part["type"] == "file":
        return "is of no known type: its name or its URL must end as files of its type do, such as .pdf"
    return None


def _contents(turns: Sequence[Turn], section: GeminiSection) -> Iterator[dict[str, Any]]:
    if turns and turns[0].role == "assistant":
        yield {"role": "user", "parts": [{"text": BEFORE}]}
    names: Sequence[str | None] = ()
    for turn in turns:
        if turn.role == "assistant":
            parts = _said(turn)
            names = [part["function_call"].get("id") for part in parts if "function_call" in part]
            yield {"role": "model", "parts": parts}
        else:
            yield {"role": "user", "parts": [*_results(turn, names), *(_part(part, section) for part in turn.parts)]}


def _said(turn: Turn) -> list[dict[str, Any]]:
    """Return a model's turn, as the API itself gave it where that is known: it wants its signatures back."""
    if turn.kept is not None:
        return [dict(part) for part in turn.kept]
    texts = [{"text": part["text"]} for part in turn.parts if part["type"] == "text"]
    calls = [{"function_call": _call(call["name"], call["arguments"])} for call in turn.calls]
    return [*texts, *calls]


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"name": name, "args": arguments_of(arguments)}


def _results(turn: Turn, names: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """Yield the results of calls, with the ids that the API gave to the calls, if it did."""
    for place, (call, text) in enumerate(turn.outputs):
        response: dict[str, Any] = {"name": call["name"], "response": {"output": text}}
        if place < len(names) and names[place]:
            response["id"] = names[place]
        yield {"function_response": response}


def _part(part: Part, section: GeminiSection) -> dict[str, Any]:
    if part["type"] == "text":
        return {"text": part["text"]}
    if part_problem(part) is not None:
        return {"text": UNSEEN}
    if file_id := part.get("file_id"):
        return {"file_data": {"file_uri": f"{section.base_url}/{section.api_version}/{file_id}"}}
    if (sent := inline(part)) is not None:
        return {"inline_data": {"mime_type": sent[0], "data": sent[1]}}
    return {"file_data": {"file_uri": part.get("url", ""), "mime_type": media_type(part) or "image/jpeg"}}


def _declaration(tool: FunctionTool) -> dict[str, Any]:
    mapped: dict[str, Any] = {"name": tool["name"], "parameters_json_schema": tool["parameters"]}
    if tool.get("description"):
        mapped["description"] = tool["description"]
    return mapped


def _calling(choice: Any, number: int, functions: Sequence[FunctionTool]) -> dict[str, Any]:
    """Return how functions are chosen. A forced call holds for the first step: repeated, the run would never end.

    `strict` is no matter of a function here, but of the choice: VALIDATED keeps to the schemas of all of them.
    """
    if choice == "none":
        return {"mode": "NONE"}
    if number == 1 and choice == "required":
        return {"mode": "ANY"}
    if number == 1 and isinstance(choice, Mapping):
        return {"mode": "ANY", "allowed_function_names": [choice["function"]["name"]]}
    return {"mode": "VALIDATED" if any(tool.get("strict") for tool in functions) else "AUTO"}


def _thinking(effort: str, section: GeminiSection) -> dict[str, Any]:
    if effort == "none":
        return {"thinking_budget": 0}
    return (
        {"thinking_level": _LEVELS[effort]} if section.reasoning == "level" else {"thinking_budget": _BUDGETS[effort]}
    )


def _format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    kind = response_format.get("type")
    if kind not in ("json_object", "json_schema"):
        return {}
    config: dict[str, Any] = {"response_mime_type": "application/json"}
    if kind == "json_schema":
        config["response_json_schema"] = response_format["json_schema"]["schema"]
    return config
