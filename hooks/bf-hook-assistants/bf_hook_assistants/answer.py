"""What a run has said in one step, put together from deltas, from whole messages, or from both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bf_hook_assistants.problems import lost
from bf_hook_assistants.text import clean, split
from bf_plugin.engines.port import Text
from bf_plugin.items import Item, text_message

Part = tuple[int, int]
"""Which message of the step, and which piece of its content."""


class Answer:
    """Grows with what comes and returns what of it is new. `known` is the text that an earlier reader has used."""

    def __init__(self, known: Mapping[Part, str] | None = None) -> None:
        self._texts = dict(known or {})
        self._held: dict[Part, str] = {}
        self._places: dict[str, int] = {}
        self._annotations: dict[Part, tuple[str, Any]] = {}
        self.last: str | None = None
        """The newest message's id."""

    def delta(self, data: Mapping[str, Any]) -> list[Text]:
        """Take the data of a `thread.message.delta`."""
        content = (data.get("delta") or {}).get("content") or ()
        pieces = ((place, _text_of(piece)) for place, piece in _indexed(content))
        place = self._place(data)
        return [text for index, piece in pieces if piece and (text := self._add((place, index), piece))]

    def message(self, data: Mapping[str, Any], *, polled: bool = False) -> list[Text]:
        """Take a whole message; return what its deltas have not told.

        Where it contradicts them they count, since a page has them. Raises ProviderError, the response being lost,
        for a `polled` one that does: there is nothing else to go by.
        """
        place, texts = self._place(data), []
        for index, piece in _indexed(data.get("content") or ()):
            part, full = (place, index), clean(_text_of(piece))
            known = self._texts.get(part, "")
            if not full.startswith(known):
                if polled:
                    raise lost("its text is not the text already received")
                continue
            if (rest := full[len(known) :]) and any(other > part for other in self._texts):
                raise lost("text of an earlier message was missing")
            self._held.pop(part, None)
            self._annotations[part] = full, (piece.get("text") or {}) if piece.get("type") == "text" else {}
            if rest:
                self._texts[part] = full
                texts.append(Text(rest, part=part))
        return texts

    def rest(self) -> list[Text]:
        """Return what was held back: no other half of it will come."""
        held, self._held = self._held, {}
        return [self._write(part, clean(half)) for part, half in sorted(held.items())]

    @property
    def content(self) -> list[dict[str, Any]]:
        """The texts in the published form, with the annotations of those that are as the server has them."""
        return [
            {"type": "text", "text": {"value": text, **self._annotated(part, text)}} for part, text in self._parts()
        ]

    @property
    def items(self) -> list[Item]:
        """The messages, for the thread's history."""
        messages: dict[int, str] = {}
        for (place, _), text in self._parts():
            messages[place] = messages.get(place, "") + text
        return [text_message("assistant", text) for text in messages.values()]

    def _parts(self) -> Iterator[tuple[Part, str]]:
        return ((part, text) for part, text in sorted(self._texts.items()) if text)

    def _annotated(self, part: Part, text: str) -> dict[str, Any]:
        full, told = self._annotations.get(part, ("", {}))
        return {"annotations": told["annotations"]} if full == text and told.get("annotations") else {}

    def _place(self, data: Mapping[str, Any]) -> int:
        self.last = str(data.get("id"))
        return self._places.setdefault(self.last, len(self._places))

    def _add(self, part: Part, piece: str) -> Text | None:
        shown, half = split(self._held.pop(part, "") + piece)
        if half:
            self._held[part] = half
        return self._write(part, shown) if shown else None

    def _write(self, part: Part, text: str) -> Text:
        self._texts[part] = self._texts.get(part, "") + text
        return Text(text, part=part)


def _indexed(content: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the pieces of a content that can be shown, with their places; a delta says which it means."""
    for number, piece in enumerate(content):
        if isinstance(piece, Mapping) and piece.get("type") in ("text", "refusal"):
            index = piece.get("index")
            yield index if isinstance(index, int) else number, piece


def _text_of(piece: Mapping[str, Any]) -> str:
    """Return text, or a refusal, which is shown as text. Some servers leave out the object around a text."""
    text = piece.get("refusal") if piece.get("type") == "refusal" else piece.get("text")
    value = text.get("value") if isinstance(text, Mapping) else text
    return value if isinstance(value, str) else ""
