"""From the tools of a server to functions a model can be offered, under names and with schemas that providers take."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mcp.types import Tool

from bf_hook_mcp.settings import ServerSettings
from bf_plugin import ToolOptions
from bf_plugin.items import FunctionTool

SEPARATOR = "__"
_LONGEST_NAME = 64
_REFUSED = ("allOf", "anyOf", "enum", "not", "oneOf")
"""What OpenAI and Anthropic refuse at the top of a tool's schema, and with it the whole request."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool: `tool` is the server's own name of it, `definition` and `options` are what `bf_plugin` gets."""

    tool: str
    definition: FunctionTool
    options: ToolOptions


def offered(server: str, tools: Iterable[Tool], settings: ServerSettings) -> dict[str, Offer]:
    """Return the tools that the operator lets be offered, by the name for the model; of two with one name the first.

    A tool whose schema no provider could be sent is left out.
    """
    offers: dict[str, Offer] = {}
    for tool in tools:
        if settings.offers(tool.name) and _is_json(tool.input_schema):
            name = name_of(server, tool.name)
            options = ToolOptions(timeout=settings.timeout, idempotent=_is_idempotent(tool))
            offers.setdefault(name, Offer(tool.name, _definition(name, tool), options))
    return offers


def name_of(server: str, tool: str) -> str:
    """Return the name for the model: at most 64 of A-Z a-z 0-9 _ -.

    It depends on nothing but the two names, since another process must find the tool by it. One that had to be
    changed ends with a digest of the original, so that two never become the same.
    """
    plain = f"{server}{SEPARATOR}{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    if name == plain and len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9]}_{digest}"


def _definition(name: str, tool: Tool) -> FunctionTool:
    parameters = {key: value for key, value in tool.input_schema.items() if key not in _REFUSED}
    parameters = {**parameters, "type": "object", "properties": parameters.get("properties", {})}
    definition: FunctionTool = {"type": "function", "name": name, "parameters": parameters}
    if description := _description(tool):
        definition["description"] = description
    return definition


def _description(tool: Tool) -> str:
    """Return what the model reads of a tool; what its schema must not say is said here."""
    said = tool.description or tool.title or ""
    conditions = {key: tool.input_schema[key] for key in _REFUSED if key in tool.input_schema}
    if not conditions:
        return said
    return f"{said}\nThe arguments must also match this JSON schema: {json.dumps(conditions)}".lstrip()


def _is_idempotent(tool: Tool) -> bool:
    hints = tool.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)


def _is_json(schema: dict[str, Any]) -> bool:
    try:
        json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
