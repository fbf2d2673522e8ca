"""JSON types of parameters, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bf_plugin.testing.provider import errors

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
