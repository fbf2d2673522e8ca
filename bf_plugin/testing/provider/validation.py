"""What OpenAI refuses in the body of a request, with its status, code and words.

Parameters are those of `openai.types.responses.ResponseCreateParams` (SDK 3.x).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError

_TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = MappingProxyType(
    {
        "boolean": ("a boolean", (bool,)),
        "integer": ("an integer", (int,)),
        "number": ("a number", (int, float)),
        "string": ("a string", (str,)),
        "array": ("an array", (list,)),
        "object": ("an object", (dict,)),
        "id": ("one of a string or object", (str, dict)),
        "choice": ("one of a string or object", (str, dict)),
        "input": ("one of a string or array", (str, list)),
    }
)

_PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "access_programs": "object",
        "background": "boolean",
        "background_options": "object",
        "context_management": "array",
        "conversation": "id",
        "image": "object",
        "include": "array",
        "input": "input",
        "instructions": "string",
        "max_output_tokens": "integer",
        "max_tool_calls": "integer",
        "metadata": "object",
        "model": "string",
        "moderation": "object",
        "parallel_tool_calls": "boolean",
        "previous_response_id": "string",
        "prompt": "object",
        "prompt_cache_key": "string",
        "prompt_cache_options": "object",
        "prompt_cache_retention": "string",
        "reasoning": "object",
        "safety_identifier": "string",
        "service_tier": "string",
        "store": "boolean",
        "stream": "boolean",
        "stream_options": "object",
        "temperature": "number",
        "text": "object",
        "tool_choice": "choice",
        "tools": "array",
        "top_logprobs": "integer",
        "top_p": "number",
        "truncation": "string",
        "user": "string",
    }
)
_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "max_output_tokens": (16, 10**9),
        "max_tool_calls": (1, 10**9),
        "temperature": (0, 2),
        "top_logprobs": (0, 20),
        "top_p": (0, 1),
    }
)
_INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "service_tier": ("auto", "default", "fast", "flex", "scale", "priority", "ultrafast"),
        "truncation": ("auto", "disabled"),
    }
)


def check_create(body: Mapping[str, Any]) -> None:
    """Raise the refusal that the body of a create deserves by itself."""
    check_types(body, _PARAMETERS)
    for name, (low, high) in _RANGES.items():
        if (value := body.get(name)) is not None:
            _check_range(name, value, low, high)
    for name, supported in _CHOICES.items():
        if (value := body.get(name)) is not None and value not in supported:
            raise errors.wrong_value(name, value, supported)
    for number, value in enumerate(body.get("include") or ()):
        if value not in _INCLUDABLE:
            raise errors.wrong_value(f"include[{number}]", value, _INCLUDABLE)
    if not body.get("model"):
        raise errors.missing("model")
    if "input" not in body:
        raise errors.missing("input")
    check_metadata(body.get("metadata"))
    _check_combinations(body)
    check_tools(body.get("tools") or ())
    _check_tool_choice(body)
    _check_format(body.get("text") or {})


def check_types(body: Mapping[str, Any], parameters: Mapping[str, str], prefix: str = "") -> None:
    """Refuse parameters that do not exist or have the wrong type; null counts as absent."""
    for name, value in body.items():
        if name not in parameters:
            raise errors.unknown(prefix + name)
        expected, types = _TYPES[parameters[name]]
        if value is None:
            continue
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise errors.wrong_type(prefix + name, expected, value)


def check_metadata(metadata: Any) -> None:
    """Refuse metadata beyond 16 pairs of strings of 64 and 512 characters."""
    if metadata is None:
        return
    if len(metadata) > 16:
        message = (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an object "
            f"with {len(metadata)} properties instead."
        )
        raise ApiError(400, message, code="object_above_max_properties", param="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise errors.wrong_type(f"metadata.{key}", "a string", value)
        if len(key) > 64 or len(value) > 512:
            message = f"Invalid 'metadata.{key[:64]}': string too long."
            raise ApiError(400, message, code="string_above_max_length", param="metadata")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if low <= value <= high:
        return
    kind = "integer" if isinstance(low, int) and isinstance(value, int) else "decimal"
    side, sign, bound = ("below_min", ">=", low) if value < low else ("above_max", "<=", high)
    message = (
        f"Invalid '{name}': {kind} {side[:5]} {'minimum' if side == 'below_min' else 'maximum'} value. "
        f"Expected a value {sign} {bound}, but got {value} instead."
    )
    raise ApiError(400, message, code=f"{kind}_{side}_value", param=name)


def _check_combinations(body: Mapping[str, Any]) -> None:
    if body.get("previous_response_id") and body.get("conversation"):
        raise ApiError(
            400,
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Provide only one of them.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )
    if body.get("background") and body.get("store") is False:
        raise ApiError(400, "Background mode requires 'store' to be true.", code="invalid_value", param="background")
    options = body.get("stream_options")
    if options is None:
        return
    if not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, message, code="invalid_value", param="stream_options")
    check_types(options, {"include_obfuscation": "boolean"}, "stream_options.")


_FUNCTION_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "type": "string",
        "name": "string",
        "description": "string",
        "parameters": "object",
        "strict": "boolean",
        "allowed_callers": "array",
        "async": "boolean",
        "defer_loading": "boolean",
        "output_schema": "object",
    }
)
_TOOL_TYPES: Mapping[str, str | None] = MappingProxyType(
    {
        "function": "name",
        "file_search": "vector_store_ids",
        "code_interpreter": "container",
        "web_search": None,
        "web_search_preview": None,
        "computer_use_preview": None,
        "image_generation": None,
        "local_shell": None,
        "mcp": "server_label",
        "custom": "name",
    }
)
"""Kinds of tools and the parameter each requires."""

_FUNCTION_NAME = re.compile(r"^[a-zA-Z0-9_-]+$")


def check_tools(tools: Sequence[Any]) -> None:
    """Refuse tools the API does not know, among them the nested functions of the Assistants API."""
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        if not isinstance(tool, dict):
            raise errors.wrong_type(where, "an object", tool)
        kind = tool.get("type")
        if not kind:
            raise errors.missing(f"{where}.type")
        if kind not in _TOOL_TYPES:
            raise errors.wrong_value(f"{where}.type", kind, tuple(_TOOL_TYPES))
        required = _TOOL_TYPES[kind]
        if required and not tool.get(required):
            raise errors.missing(f"{where}.{required}")
        if kind == "function":
            _check_function(tool, where)


def _check_function(tool: Mapping[str, Any], where: str) -> None:
    check_types(tool, _FUNCTION_FIELDS, f"{where}.")
    if not _FUNCTION_NAME.match(tool["name"]) or len(tool["name"]) > 64:
        message = (
            f"Invalid '{where}.name': string does not match pattern. Expected a string that matches the pattern "
            f"'{_FUNCTION_NAME.pattern}'."
        )
        raise ApiError(400, message, code="invalid_value", param=f"{where}.name")
    if "parameters" not in tool:
        raise errors.missing(f"{where}.parameters")
    schema, problem = tool["parameters"] or {}, None
    if schema.get("type", "object") != "object":
        problem = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema['type']}\"'."
    elif tool.get("strict", True) is not False and schema.get("additionalProperties") is not False:
        problem = "In context=(), 'additionalProperties' is required to be supplied and to be false."
    if problem:
        message = f"Invalid schema for function '{tool['name']}': {problem}"
        raise ApiError(400, message, code="invalid_function_parameters", param=f"{where}.parameters")


def _check_tool_choice(body: Mapping[str, Any]) -> None:
    choice, tools = body.get("tool_choice"), body.get("tools") or ()
    if choice is None:
        return
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise errors.wrong_value("tool_choice", choice, ("none", "auto", "required"))
        if choice == "required" and not tools:
            message = "Tool choice 'required' must be specified with 'tools' parameter."
            raise ApiError(400, message, param="tool_choice")
        return
    if not choice.get("type"):
        raise errors.missing("tool_choice.type")
    if choice["type"] != "function":
        return
    if not choice.get("name"):
        raise errors.missing("tool_choice.name")
    check_types(choice, {"type": "string", "name": "string"}, "tool_choice.")
    if choice["name"] not in [tool.get("name") for tool in tools]:
        message = f"Tool choice '{choice['name']}' not found in 'tools' parameter."
        raise ApiError(400, message, code="invalid_value", param="tool_choice")


def _check_format(text: Mapping[str, Any]) -> None:
    check_types(text, {"format": "object", "verbosity": "string"}, "text.")
    shape = text.get("format")
    if shape is None:
        return
    kinds = ("text", "json_schema", "json_object")
    if shape.get("type") not in kinds:
        raise errors.wrong_value("text.format.type", shape.get("type"), kinds)
    if shape["type"] != "json_schema":
        return
    for required in ("name", "schema"):
        if not shape.get(required):
            raise errors.missing(f"text.format.{required}")
    fields = {"type": "string", "name": "string", "schema": "object", "strict": "boolean", "description": "string"}
    check_types(shape, fields, "text.format.")
