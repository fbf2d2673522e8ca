"""How far an earlier driver came in a response, read from the messages it sealed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bf_plugin.engines.port import Cursor
from bf_plugin.gateway import events
from bf_plugin.journal.records import Sealed, Source


def cursor_of(rows: Sequence[Sealed], step: int) -> Cursor:
    """Return the cursor of a step behind the messages of its run."""
    sequence = -1
    texts: dict[tuple[int, int], str] = {}
    for row in rows:
        for source, text in raw_texts(row):
            if source.step == step:
                part = (source.part[0], source.part[1])
                texts[part] = texts.get(part, "") + text
                sequence = max(sequence, source.sequence)
    return Cursor(sequence=sequence, texts=texts)


def raw_texts(row: Sealed) -> Iterator[tuple[Source, str]]:
    """Yield the stretches of the provider's text behind a message, each with its text.

    Where no plugin had a say that is what the message says, cut at the lengths of the stretches.
    """
    said = "".join(event["content"] for event in events.events_in(row.body) if event["type"] == "delta")
    position = 0
    for source in row.sources:
        yield source, said[position : position + source.length] if source.text is None else source.text
        position += source.length
