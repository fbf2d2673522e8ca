"""What OpenAI refuses in the body of a request, with its status, code and words.

Parameters are those of `openai.types.responses.ResponseCreateParams` (SDK 3.x).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.toolchecks import check_tool_choice, check_tools
from bf_plugin.testing.provider.typechecks import check_types

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
    check_tool_choice(body)
    _check_format(body.get("text") or {})


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
