"""Input items: checked as strictly as OpenAI does, completed with ids, and paired calls with outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.state import JsonObject, new_id

_INPUT_PARTS = (
    "input_text",
    "input_image",
    "output_text",
    "refusal",
    "input_file",
    "computer_screenshot",
    "summary_text",
)
_ASSISTANT_PARTS = ("output_text", "refusal")
_ROLES = ("assistant", "system", "developer", "user")
_PREFIXES: Mapping[str, str] = MappingProxyType(
    {"message": "msg", "function_call": "fc", "function_call_output": "fc", "reasoning": "rs"}
)
_REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "message": ("role", "content"),
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "reasoning": ("id", "summary"),
    }
)
_ALLOWED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "message": frozenset({"type", "id", "role", "content", "status", "phase"}),
        "function_call": frozenset({"type", "id", "call_id", "name", "arguments", "status", "namespace", "caller"}),
        "function_call_output": frozenset({"type", "id", "call_id", "output", "status", "caller"}),
        "reasoning": frozenset({"type", "id", "summary", "content", "encrypted_content", "status"}),
    }
)


def normalize(value: str | Sequence[Any], name: str = "input") -> list[JsonObject]:
    """Return input items as the API stores them; raises ApiError for those it refuses."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return [_item(item, f"{name}[{number}]") for number, item in enumerate(value)]


def check_pairs(context: Sequence[Mapping[str, Any]]) -> None:
    """Refuse outputs without a call before them and calls without an output."""
    calls: dict[str, bool] = {}
    for item in context:
        if item["type"] == "function_call":
            calls[item["call_id"]] = False
        elif item["type"] == "function_call_output":
            if item["call_id"] not in calls:
                message = f"No tool call found for function call output with call_id {item['call_id']}."
                raise ApiError(400, message, param="input")
            calls[item["call_id"]] = True
    for call_id, answered in calls.items():
        if not answered:
            raise ApiError(400, f"No tool output found for function call {call_id}.", param="input")


def user_text(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the text of each user message, oldest first."""
    return [message_text(item) for item in items if item["type"] == "message" and item["role"] == "user"]


def message_text(item: Mapping[str, Any]) -> str:
    """Return the text of one message."""
    return " ".join(part.get("text") or part.get("refusal") or "" for part in item["content"]).strip()


def _item(item: Any, where: str) -> JsonObject:
    if not isinstance(item, dict):
        raise errors.wrong_type(where, "an object", item)
    kind = item.get("type") or ("message" if "role" in item else None)
    if kind is None:
        raise errors.missing(f"{where}.type")
    if kind not in _REQUIRED:
        raise errors.wrong_value(f"{where}.type", kind, tuple(_REQUIRED))
    for required in _REQUIRED[kind]:
        if item.get(required) is None:
            raise errors.missing(f"{where}.{required}")
    for key in item:
        if key not in _ALLOWED[kind]:
            raise errors.unknown(f"{where}.{key}")
    _check_id(item, kind, where)
    stored: JsonObject = {"id": item.get("id") or new_id(_PREFIXES[kind]), **item, "type": kind}
    if kind == "message":
        stored["content"] = _content(item, where)
    if kind != "reasoning":
        stored["status"] = "completed"
    _check_strings(stored, where)
    return stored


def _check_id(item: Mapping[str, Any], kind: str, where: str) -> None:
    given, prefix = item.get("id"), _PREFIXES[kind]
    if given is not None and not str(given).startswith(prefix):
        message = f"Invalid '{where}.id': '{given}'. Expected an ID that begins with '{prefix}'."
        raise ApiError(400, message, code="invalid_value", param=f"{where}.id")


def _check_strings(item: Mapping[str, Any], where: str) -> None:
    for key in ("call_id", "name", "arguments"):
        if key in item and not isinstance(item[key], str):
            raise errors.wrong_type(f"{where}.{key}", "a string", item[key])
    if isinstance(item.get("call_id"), str) and len(item["call_id"]) > 64:
        message = f"Invalid '{where}.call_id': string too long. Expected a string with maximum length 64."
        raise ApiError(400, message, code="string_above_max_length", param=f"{where}.call_id")
    if "output" in item and not isinstance(item["output"], (str, list)):
        raise errors.wrong_type(f"{where}.output", "one of a string or array", item["output"])


def _content(item: Mapping[str, Any], where: str) -> list[JsonObject]:
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise errors.wrong_value(f"{where}.role", role, _ROLES)
    if isinstance(content, str):
        content = [{"type": "output_text" if role == "assistant" else "input_text", "text": content}]
    if not isinstance(content, list):
        raise errors.wrong_type(f"{where}.content", "one of a string or array", content)
    return [_part(part, role, f"{where}.content[{number}]") for number, part in enumerate(content)]


def _part(part: Any, role: str, where: str) -> JsonObject:
    if not isinstance(part, dict):
        raise errors.wrong_type(where, "an object", part)
    kind = part.get("type")
    supported = _ASSISTANT_PARTS if role == "assistant" else _INPUT_PARTS
    if kind not in supported:
        raise errors.wrong_value(f"{where}.type", kind, supported)
    if kind in ("input_text", "output_text"):
        if not isinstance(part.get("text"), str):
            raise errors.missing(f"{where}.text")
        return {"annotations": [], "logprobs": [], **part} if kind == "output_text" else dict(part)
    if kind == "refusal" and not isinstance(part.get("refusal"), str):
        raise errors.missing(f"{where}.refusal")
    if kind == "input_image":
        if not (part.get("image_url") or part.get("file_id")):
            raise errors.missing(f"{where}.image_url")
        if not isinstance(part.get("image_url") or "", str):
            raise errors.wrong_type(f"{where}.image_url", "a string", part["image_url"])
        return {"detail": "auto", **part}
    if kind == "input_file" and not (part.get("file_id") or part.get("file_data") or part.get("file_url")):
        raise errors.missing(f"{where}.file_id")
    return dict(part)
