"""Text and numbers as others send them: half characters, times to wait, tokens that nobody has counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any


def well_formed(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone surrogates replaced by U+FFFD.

    OpenAI sends lone ones where it cuts an emoji in two, and no JSON encoder or database takes them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def well_formed_tree(value: Any) -> Any:
    """Return JSON-able `value` with `well_formed` done to all text in it, keys too.

    Integers beyond 64 bits become floats, as in most JSON readers: no binary format holds them.
    """
    if isinstance(value, int) and value.bit_length() > 63:
        return float(value)
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {well_formed_tree(key): well_formed_tree(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [well_formed_tree(child) for child in value]
    return value


def tokens_of(characters: int) -> int:
    """Return a guess at the tokens of a text: four characters each."""
    return (characters + 3) // 4


def retry_after_seconds(header: str | None) -> float | None:
    """Return a `Retry-After` header, a number or a date, as seconds from now; None for one that is neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
