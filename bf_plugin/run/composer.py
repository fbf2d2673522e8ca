"""What one run has said: its messages, with their numbers, seqs and offsets, and what plugins make of its text.

The outbox composes a message, seals it in the journal, and only then keeps it as said. A message that could not be
sealed leaves no trace, and its numbers are free for what follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.engines.port import Cursor
from bf_plugin.errors import BFError
from bf_plugin.gateway import events
from bf_plugin.journal.records import Sealed, Source
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.runtime.text import well_formed
from bf_plugin.values import Delta, Run

MESSAGE_TEXT = 65_536
"""Characters of text one message may carry, in several deltas; the rest goes with the next."""

PartKey = tuple[int, tuple[int, int]]
"""Which part of the provider's text: step number, and (output, content) indexes in its response."""


class NotReplayable(BFError):
    """What plugins make of a run's text after a takeover is not what was sent before."""

    code = "hook_not_replayable"


@dataclass(slots=True)
class Text:
    """Text of one part, in pieces to be joined; `sequence` is the provider's cursor behind it."""

    pieces: list[str]
    size: int
    part: PartKey
    sequence: int


@dataclass(frozen=True, slots=True)
class Event:
    """An event that is no delta."""

    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """A bare action, which has no seq."""

    action: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Final:
    """The text is complete: hooks may let go of what they hold."""


Entry = Text | Event | Action | Final


@dataclass(slots=True)
class Draft:
    """A message in the making. `message` is None if there was nothing to say.

    `numbered` is false when it holds a bare action: a page knows events again by their seq, and an action has none.
    """

    seq: int
    offset: int
    actions: list[Mapping[str, Any]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    answers_at: list[int] = field(default_factory=list)
    message: Sealed | None = None
    ends: bool = False
    numbered: bool = True


class Composer:
    """What one run has said, and how it says more. `ended` tells whether its `end` is sealed.

    `answers` counts the steps that are closed by an announcement of tool calls; the text after it is a new answer.
    """

    def __init__(self, *, run: Run, hooks: HookCalls, action_name: str, style: str) -> None:
        self._run = run
        self._hooks = hooks
        self._action_name = action_name
        self._style = style
        self._number = self._seq = self._offset = self._answer_at = 0
        self._said: list[str] = []
        self._held: list[Source] = []
        self._known = ""
        self._asked: set[str] = set()
        self.answers = 0
        self.ended = False

    @property
    def begun(self) -> bool:
        """Tell whether anything is sealed."""
        return self._number > 0

    @property
    def text(self) -> str:
        """The run's text as callers know it: sealed, after `on_delta`."""
        return "".join(self._said)

    @property
    def answer(self) -> str:
        """The sealed text of the newest step, the one after `answers` others."""
        return "".join(self._said[self._answer_at :])

    def has_asked(self, tool_call_id: str) -> bool:
        """Whether an earlier driver has sealed a page's tool call."""
        return tool_call_id in self._asked

    def restore(self, rows: Sequence[Sealed]) -> None:
        """Go on behind what an earlier driver sealed."""
        for row in rows:
            self._asked |= events.tool_calls_in(row.body)
            for event in events.events_in(row.body):
                if event["type"] == "delta":
                    self._said.append(event["content"])
                elif event["type"] == "function_call":
                    self._mark_answer(len(self._said))
                self.ended = event["type"] == "end"
            self._number, self._seq, self._offset = row.number, max(self._seq, row.last_seq), row.end_offset

    async def replay(self, rows: Sequence[Sealed]) -> None:
        """Show plugins the text they have seen before, in the same pieces, so that they have the same state again.

        Raises NotReplayable when they change it in another way now, and whatever they raise themselves.
        """
        if not self._hooks.has_on_delta:
            return
        shaped = [await self._shaped(text, replay=True) for row in rows for _, text in raw_texts(row)]
        self._known = self.text
        if self._unknown("".join(shaped)):
            raise NotReplayable("plugins let go of more text after a takeover than before it")

    async def compose(self, entries: Sequence[Entry], *, deliver: bool, closing: bool) -> Draft:
        """Return a message that says `entries`. Plugins are not asked about the text that closes a run.

        Raises whatever `on_delta` raises, and NotReplayable.
        """
        draft = Draft(seq=self._seq, offset=self._offset)
        for entry in entries:
            if isinstance(entry, Text):
                raw = well_formed("".join(entry.pieces))
                text = await self._shaped_and_new(raw, final=False, closing=closing)
                kept = raw if self._hooks.has_on_delta else None
                draft.sources.append(Source(entry.part[0], entry.sequence, entry.part[1], len(raw), kept))
                self._say(draft, text)
            elif isinstance(entry, Final):
                self._say(draft, await self._shaped_and_new("", final=True, closing=closing))
            elif isinstance(entry, Event):
                self._add_event(draft, entry.event)
            else:
                draft.actions.append(entry.action)
                draft.numbered = False
        if not draft.actions:
            self._held += draft.sources
            return draft
        draft.message = Sealed(
            number=self._number + 1,
            first_seq=self._seq + 1,
            last_seq=draft.seq,
            end_offset=draft.offset,
            body=events.encode_message(draft.actions),
            sources=[*self._held, *draft.sources],
            deliver=deliver,
        )
        return draft

    def keep(self, draft: Draft, message: Sealed) -> None:
        """Count a message as said: it is sealed."""
        self._number, self._seq, self._offset = message.number, message.last_seq, message.end_offset
        for position in draft.answers_at:
            self._mark_answer(len(self._said) + position)
        self._said += draft.text
        self.ended = draft.ends
        self._held.clear()

    def _say(self, draft: Draft, text: str) -> None:
        for piece in events.pieces(text) if text else ():
            draft.text.append(piece)
            self._add_event(draft, events.delta(piece, draft.offset))
            draft.offset += events.utf16_length(piece)

    def _add_event(self, draft: Draft, event: Mapping[str, Any]) -> None:
        draft.seq += 1
        if event["type"] == "function_call":
            draft.answers_at.append(len(draft.text))
        draft.ends = event["type"] == "end"
        ids = {"threadId": self._run.thread_id, "runId": self._run.id, "seq": draft.seq}
        draft.actions.append(events.named_action({**event, **ids}, self._action_name, self._style))

    async def _shaped_and_new(self, raw: str, *, final: bool, closing: bool) -> str:
        """Return what plugins make of the provider's text, without what is sealed already."""
        if not self._hooks.has_on_delta or closing:
            return raw
        return self._unknown(await self._shaped(raw, final=final))

    async def _shaped(self, raw: str, *, final: bool = False, replay: bool = False) -> str:
        delta = Delta(raw, final=final, replay=replay)
        await self._hooks.apply_delta(self._run, delta)
        return well_formed(delta.text)

    def _unknown(self, text: str) -> str:
        """Return what of a hook's text is not sealed yet: after a replay it may repeat the end of it."""
        if not self._known:
            return text
        known, self._known = self._known[: len(text)], self._known[len(text) :]
        if not text.startswith(known):
            raise NotReplayable("a plugin made other text of the same text after a takeover")
        return text[len(known) :]

    def _mark_answer(self, position: int) -> None:
        self._answer_at = position
        self.answers += 1


def take(pending: deque[Entry]) -> list[Entry]:
    """Take what the next message carries: everything that waits, up to a bound on its text."""
    taken: list[Entry] = []
    room = MESSAGE_TEXT
    while pending and room > 0:
        entry = pending.popleft()
        room -= entry.size if isinstance(entry, Text) else 0
        taken.append(entry)
    return taken


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
