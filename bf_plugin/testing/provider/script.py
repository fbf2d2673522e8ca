"""What the simulated model says: values that tests write and brains return.

A `Reply` is one response: a sequence of output items with pauses, gates and foreign events between or inside them, and
how it ends. The lower-case functions build its pieces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bf_plugin.testing.gate import Gate


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence, in seconds; a `paced` one is counted from the end of the last, so that a pace holds under load."""

    seconds: float
    paced: bool = False


@dataclass(frozen=True, slots=True)
class ForeignEvent:
    """An event of a kind no client knows, as `keepalive`."""

    type: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Chunk = str | Gate | Pause | ForeignEvent
"""A delta exactly as it is sent, or what happens before the next one."""


@dataclass(frozen=True, slots=True)
class Text:
    """An assistant message; annotations go out after its last delta, in the provider's own shape."""

    chunks: tuple[Chunk, ...]
    annotations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An assistant message that holds a refusal."""

    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning item; the chunks are its summary."""

    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function call; `chunks` joined are its arguments, by convention JSON. Without an id a fresh one is made."""

    name: str
    chunks: tuple[Chunk, ...]
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The usual end."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Ends with `response.incomplete`; `reason` is `max_output_tokens` or `content_filter`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Ends with `response.failed`."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class StreamError:
    """Ends with an `error` event: flat as documented, or nested under `error` as gateways and the SDK have it."""

    message: str
    code: str | None
    param: str | None
    nested: bool


Item = Text | Refusal | Reasoning | Call
Ending = Completed | Incomplete | Failed | StreamError
Part = Item | Gate | Pause | ForeignEvent | Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One scripted response.

    `delay` seconds pass before each delta. `usage` is (input, output) tokens; None counts four characters as a token.
    """

    parts: tuple[Item | Gate | Pause | ForeignEvent, ...] = ()
    ending: Ending = Completed()
    usage: tuple[int, int] | None = None
    delay: float = 0.0


Answer = Reply | str | Part | Sequence[Part | str]
"""What `script` and brains accept for one response; a string is a text of one delta."""

_ENDINGS = (Completed, Incomplete, Failed, StreamError)


def text(*chunks: Chunk, annotations: Iterable[Mapping[str, Any]] = ()) -> Text:
    """Return a message whose deltas are exactly these strings."""
    return Text(chunks, tuple(annotations))


def words(sentence: str) -> Text:
    """Return a message whose deltas are the words of `sentence`, each with the white space after it."""
    return Text(tuple(re.findall(r"\S+\s*|^\s+", sentence)))


def refusal(*chunks: Chunk) -> Refusal:
    """Return a refusal whose deltas are exactly these strings."""
    return Refusal(chunks)


def reasoning(*chunks: Chunk) -> Reasoning:
    """Return a reasoning item whose summary's deltas are exactly these strings."""
    return Reasoning(chunks)


def call(name: str, arguments: Mapping[str, Any] | str | Sequence[Chunk] = "{}", *, call_id: str | None = None) -> Call:
    """Return a function call; `arguments` as an object, as its JSON text, or as the exact deltas of that text."""
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if isinstance(arguments, str):
        arguments = [arguments[start : start + 12] for start in range(0, len(arguments), 12)]
    return Call(name, tuple(arguments), call_id)


def pause(seconds: float) -> Pause:
    """Return a silence."""
    return Pause(seconds)


def event(kind: str = "keepalive", **fields: Any) -> ForeignEvent:
    """Return an event of an unknown kind."""
    return ForeignEvent(kind, fields)


def incomplete(reason: Literal["max_output_tokens", "content_filter"] = "max_output_tokens") -> Incomplete:
    """Return an end with `response.incomplete`."""
    return Incomplete(reason)


def failed(message: str = "The model failed to generate a response.", *, code: str = "server_error") -> Failed:
    """Return an end with `response.failed`."""
    return Failed(message, code)


def error(
    message: str = "The server had an error while processing your request.",
    *,
    code: str | None = "server_error",
    param: str | None = None,
    nested: bool = False,
) -> StreamError:
    """Return an end with an `error` event."""
    return StreamError(message, code, param, nested)


def reply(*parts: Part | str, usage: tuple[int, int] | None = None, delay: float = 0.0) -> Reply:
    """Return a response of these parts; an ending, if there is one, comes last."""
    items = [text(part) if isinstance(part, str) else part for part in parts]
    ending: Ending = Completed()
    if items and isinstance(items[-1], _ENDINGS):
        ending = items.pop()  # type: ignore[assignment]
    if any(isinstance(item, _ENDINGS) for item in items):
        raise ValueError("nothing can follow the end of a response")
    return Reply(parts=tuple(items), ending=ending, usage=usage, delay=delay)  # type: ignore[arg-type]


def as_reply(answer: Answer) -> Reply:
    """Return the response that `answer` is short for."""
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return reply(*answer)
    return reply(answer)
