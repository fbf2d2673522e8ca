"""Texts that have to fit into UTF-8, and JSON that a model wrote."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Pieces:
    """Text that comes in pieces, which may cut a character in two where a server escapes it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._held = ""

    def add(self, piece: str) -> str:
        """Return what can be shown by now."""
        text, self._held = self._held + piece, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return self._keep(clean(text))

    def rest(self) -> str:
        """Return what was held back: no other half of it will come."""
        held, self._held = self._held, ""
        return self._keep(clean(held))

    def __str__(self) -> str:
        return "".join(self._parts)

    def _keep(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text


def arguments_of(text: str) -> dict[str, Any]:
    """Return the arguments of a call as the object that providers want to see again.

    A model may have written something else than an object. It was told so in the call's output; what it wrote then
    stands under `arguments`.
    """
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"arguments": clean(text)}
    value = _cleaned(value)
    return value if isinstance(value, dict) else {"arguments": value}


def _cleaned(value: Any) -> Any:
    """Return JSON with clean texts: what is escaped in a model's JSON may be half a character."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(name): _cleaned(one) for name, one in value.items()}
    return value
