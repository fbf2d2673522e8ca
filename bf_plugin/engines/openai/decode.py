"""From the bytes of a response stream to the few events that matter.

An SSE stream is cut at blank lines, whatever the network's chunks are. Only events that carry text, an item, an id or
an ending are decoded; the rest (reasoning, arguments, progress of hosted tools) is counted and dropped, since the
counting is what the silence limit needs. Event names: OpenAI API reference, "Streaming events" of Responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

_LONGEST_EVENT = 64 * 2**20
"""Bytes one event may have; the longest that were seen carry pictures or whole files."""

SNAPSHOT = "snapshot"
"""The type given to a whole response object where events were asked for (a server that ignores `stream`)."""

_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_WANTED = _DELTAS | {
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_text.done",
    "response.refusal.done",
    "response.output_item.done",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled",
    "error",
}
_STARTS = frozenset({"response.output_item.added", "response.content_part.added"})
_KEEPALIVES = frozenset({"keepalive", "ping"})
_DELTA_LINES = frozenset(name.encode() for name in _DELTAS)
_NAMELESS = frozenset({"", "message"})


class TextDelta(msgspec.Struct, gc=False):
    """A piece of text or refusal; `ragged` when it may hold half a surrogate pair."""

    delta: str
    output_index: int = 0
    content_index: int = 0
    sequence_number: int | None = None
    ragged: bool = False


Frame = TextDelta | dict[str, Any]


class BrokenStreamError(ValueError):
    """An event is not JSON, or too long. The reader must treat the connection as lost."""


def loads(data: bytes) -> Any:
    """Return what the JSON in `data` says; ValueError if it is not JSON.

    msgspec refuses lone surrogates (`"\\ud83d"`), which OpenAI sends when it cuts an emoji in two; json takes them.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(data.decode("utf-8", "replace"))


class Decoder:
    """Turns chunks into frames. `heard` counts events other than keepalives.

    A body that begins like an object is one, whatever its content type says: the whole response, where a server ignores
    that events were asked for.

    With `everything`, events that only carry a sequence number or start a part are decoded too: after a reconnect they
    tell where the stream has picked up.
    """

    def __init__(self, *, everything: bool = False) -> None:
        self.heard = 0
        self._everything = everything
        self._whole = False
        self._pending: list[bytes] = []
        self._size = 0
        self._carriage_return = False
        self._delta = msgspec.json.Decoder(TextDelta)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that `chunk` completes."""
        if self._carriage_return or b"\r" in chunk:
            chunk = self._plain_lines(chunk)
        if self._pending:
            # Only what is new is searched, so that an event in many reads costs no more than its length.
            if self._whole or b"\n\n" not in self._pending[-1][-1:] + chunk:
                return self._keep(chunk)
            chunk = b"".join((*self._pending, chunk))
            self._pending, self._size = [], 0
        elif chunk.startswith(b"{"):
            self._whole = True
            return self._keep(chunk)
        blocks = chunk.split(b"\n\n")
        self._keep(blocks.pop())
        return [frame for block in blocks if (frame := self._frame(block)) is not None]

    def flush(self) -> list[Frame]:
        """Return the frame of an ending without its blank line, if it is whole."""
        rest = b"".join(self._pending)
        self._pending, self._size = [], 0
        try:
            frame = {"type": SNAPSHOT, "response": loads(rest)} if self._whole else self._frame(rest)
        except ValueError:
            return []
        return [frame] if frame is not None else []

    def _plain_lines(self, chunk: bytes) -> bytes:
        """Return a chunk with all ends of lines as one kind; a last "\\r" may be half of one, and waits."""
        if self._carriage_return:
            chunk = b"\r" + chunk
        self._carriage_return = chunk.endswith(b"\r")
        if self._carriage_return:
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, rest: bytes) -> list[Frame]:
        if rest:
            self._pending.append(rest)
            self._size += len(rest)
            if self._size > _LONGEST_EVENT:
                raise BrokenStreamError("an event is too long")
        return []

    def _frame(self, block: bytes) -> Frame | None:
        if block.startswith(b"event: "):
            end = block.find(b"\n")
            if block[7:end] in _DELTA_LINES and block.startswith(b"data: ", end + 1):
                try:
                    frame = self._delta.decode(block[end + 7 :])
                except (msgspec.DecodeError, UnicodeDecodeError):
                    return self._slow_frame(block)
                self.heard += 1
                return frame
        return self._slow_frame(block)

    def _slow_frame(self, block: bytes) -> Frame | None:
        name, data = _fields(block)
        if not data or name in _KEEPALIVES or data == b"[DONE]":
            return None
        if name not in _NAMELESS and not self._wants(name):
            self.heard += 1
            return None
        try:
            event = loads(data)
        except ValueError:
            raise BrokenStreamError(f"an event of type {name or 'unknown'} is not JSON") from None
        if not isinstance(event, dict):
            return None
        kind = event.get("type", name or ("error" if "error" in event else ""))
        kind = event["type"] = "error" if name == "error" else str(kind)
        if kind in _KEEPALIVES:
            return None
        self.heard += 1
        if kind in _DELTAS:
            return _delta_of(event)
        return event if self._wants(kind) else None

    def _wants(self, kind: str) -> bool:
        return kind in _WANTED or self._everything


def _fields(block: bytes) -> tuple[str, bytes]:
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace").strip()
    return name, b"\n".join(data).strip()


def _delta_of(event: dict[str, Any]) -> TextDelta | None:
    text = event.get("delta")
    if not isinstance(text, str):
        return None
    part = index_of(event, "output_index"), index_of(event, "content_index")
    return TextDelta(text, *part, sequence_of(event), ragged=True)


def index_of(event: Mapping[str, Any], name: str) -> int:
    """Return an index of an event, 0 where a server leaves it out."""
    value = event.get(name)
    return value if isinstance(value, int) else 0


def sequence_of(event: Mapping[str, Any]) -> int | None:
    """Return an event's sequence number; some servers send none, others a null."""
    value = event.get("sequence_number")
    return value if isinstance(value, int) else None


def starts_part(kind: str) -> bool:
    """Tell whether an event of this type begins an output item or one of its parts."""
    return kind in _STARTS
