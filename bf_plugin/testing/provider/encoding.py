"""JSON as the simulator writes it: fast, and able to write what msgspec refuses (lone surrogates)."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Return `value` as JSON; lone surrogates become escapes."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def join_surrogates(text: str) -> str:
    """Return `text` with halves that meet joined to one character, as JSON readers that join strings do."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def split_surrogates(delta: str) -> list[str]:
    """Return `delta` in pieces, cut within each astral character."""
    pieces = [""]
    for character in delta:
        if ord(character) > 0xFFFF:
            high, low = divmod(ord(character) - 0x10000, 0x400)
            pieces[-1] += chr(0xD800 + high)
            pieces.append(chr(0xDC00 + low))
        else:
            pieces[-1] += character
    return pieces
