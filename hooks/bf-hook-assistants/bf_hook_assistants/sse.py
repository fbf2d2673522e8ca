"""From the bytes of an event stream to its events, however the network has cut them.

The format is WHATWG HTML's, "Server-sent events".
"""

from __future__ import annotations

import json
from typing import Any

Frame = tuple[str, Any]
"""An event's name and its data, as JSON says it."""


class BrokenStreamError(ValueError):
    """An event that should be JSON is not: whoever reads must treat the connection as lost."""


class Decoder:
    """Turns chunks into frames. Comments, and the `[DONE]` at the end, are left out."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that `chunk` completes. Raises BrokenStreamError."""
        data = self._pending + chunk
        held = b"\r" if data.endswith(b"\r") else b""  # half of a line's end, perhaps
        lines = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = lines.split(b"\n\n")
        self._pending = rest + held
        return [frame for block in blocks if (frame := _frame(block)) is not None]


def _frame(block: bytes) -> Frame | None:
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace").strip()
    body = b"\n".join(data).strip()
    if not body or body == b"[DONE]":
        return None
    try:
        return name, json.loads(body.decode("utf-8", "replace"))
    except ValueError:
        raise BrokenStreamError(f"an event {name or 'without a name'} is not JSON") from None
