"""What OpenAI refuses in `tools` and `tool_choice`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.typechecks import check_types

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


def check_tool_choice(body: Mapping[str, Any]) -> None:
    """Refuse a choice of a tool that is not there."""
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
