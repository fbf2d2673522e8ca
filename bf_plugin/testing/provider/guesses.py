"""Arguments for a tool, guessed from its JSON schema and what the user said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_QUOTED = re.compile(r"[\"“'‘`]([^\"”'’`]+)[\"”'’`]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_COLOURS = re.compile(
    r"\b(?:red|orange|yellow|green|blue|purple|violet|pink|brown|black|white|gr[ae]y|teal|cyan|magenta|gold|navy|lime)\b"
    r"|#[0-9a-f]{3,8}\b"
)
_LIMIT = 4
"""Levels of nesting after which nothing is guessed any more."""


def guess_arguments(schema: Mapping[str, Any], said: str) -> dict[str, Any]:
    """Return an object for `schema` with every property it names."""
    return dict(_guess_object(schema, said, 0))


def colours(said: str) -> list[str]:
    """Return the colours named, as written in CSS."""
    return _COLOURS.findall(said.lower())


def _guess_object(schema: Mapping[str, Any], said: str, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    if depth >= _LIMIT:
        properties = {name: properties[name] for name in schema.get("required", ()) if name in properties}
    return {name: _guess(name, shape, said, depth) for name, shape in properties.items()}


def _guess(name: str, schema: Any, said: str, depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return said
    if "const" in schema:
        return schema["const"]
    if options := schema.get("enum"):
        return next((option for option in options if _mentioned(option, said)), options[0])
    for key in ("anyOf", "oneOf"):
        if choices := schema.get(key):
            return _guess(name, choices[0], said, depth)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return _guess_object(schema, said, depth + 1)
    if kind == "array":
        return [_guess(name, schema.get("items", {}), said, depth + 1)] if depth < _LIMIT else []
    if kind in ("integer", "number"):
        return _guess_number(schema, said, whole=kind == "integer")
    return {"boolean": True, "null": None}.get(kind, _guess_text(name, schema, said))


def _guess_number(schema: Mapping[str, Any], said: str, *, whole: bool) -> float:
    found = _NUMBER.search(said)
    value = float(found.group()) if found else float(schema.get("minimum", 1))
    value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
    return int(value) if whole else value


def _guess_text(name: str, schema: Mapping[str, Any], said: str) -> str:
    if name == "userMessage":
        return "One moment, please…"
    if re.search("colou?r", name, re.IGNORECASE) and (named := colours(said)):
        return named[0]
    quoted = _QUOTED.search(said)
    text = quoted.group(1) if quoted else said
    return text[: schema.get("maxLength", len(text))]


def _mentioned(option: Any, said: str) -> bool:
    """Tell whether an option, or a longer form of it ("darker"), is in the text."""
    text = str(option)
    longer = r"\w*" if len(text) > 2 else ""
    return bool(re.search(rf"(?<!\w){re.escape(text)}{longer}(?!\w)", said, re.IGNORECASE))
