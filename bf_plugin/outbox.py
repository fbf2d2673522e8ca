"""The outgoing lane of one run: joins text, seals messages, sends them in order, one at a time.

Each message is committed to the journal before its first byte is sent, so a seq never names two contents. While a
message is in flight, or within the joining interval of the last text, text joins: a slow gateway gets fewer, larger
messages, and memory holds no more than the text itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin import events
from bf_plugin.cursors import raw_texts
from bf_plugin.delivery import Delivery, DeliveryFailed
from bf_plugin.errors import BFError, Fenced, JournalError
from bf_plugin.hookcalls import HookCalls
from bf_plugin.journal.log import MessageLog
from bf_plugin.journal.records import Decided, Sealed, Source
from bf_plugin.values import Delta, Run

_MESSAGE_TEXT = 65_536
"""Characters of text one message may carry, in several deltas; the rest goes with the next."""

_SEAL_AGAIN = 1.0
"""Seconds until the journal is tried again with what ends a run."""

Place = tuple[int, tuple[int, int]]
"""Where text comes from: step number, and (output, content) indexes in its response."""


@dataclass(slots=True)
class _Text:
    """Text of one place that waits, in parts to be joined; `sequence` is the provider's cursor behind it."""

    parts: list[str]
    size: int
    place: Place
    sequence: int


@dataclass(frozen=True, slots=True)
class _Event:
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Action:
    action: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Final:
    """The text is complete: hooks may let go of what they hold."""


@dataclass(slots=True)
class _Draft:
    """A message in the making."""

    actions: list[Mapping[str, Any]] = field(default_factory=list)
    seq: int = 0
    offset: int = 0
    text: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    answers_at: list[int] = field(default_factory=list)


class NotReplayable(BFError):
    """What plugins make of a run's text after a takeover is not what was sent before."""


_NOWHERE: Place = (0, (0, 0))


class Outbox:
    """One run's lane. The driver puts text, events and actions in; `run` is the task that sends them.

    `on_fault` is told when the lane cannot go on as meant: DeliveryFailed (what follows is sealed, but not sent),
    Decided, Fenced (nothing follows), JournalError, or what an `on_delta` hook raised. What ends a run is sealed,
    however long the journal fails. `interval` gives the seconds over which text is joined. Without a `delivery` (a
    polling caller) messages are sealed only.
    """

    def __init__(
        self,
        *,
        run: Run,
        epoch: int,
        log: MessageLog,
        hooks: HookCalls,
        delivery: Delivery | None,
        action_name: str,
        style: str,
        interval: Callable[[], float],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._run = run
        self._epoch = epoch
        self._log = log
        self._hooks = hooks
        self._delivery = delivery
        self._action_name = action_name
        self._style = style
        self._interval = interval
        self._on_fault = on_fault
        self._pending: deque[_Text | _Event | _Action | _Final] = deque()
        self._surrogate = ""
        self._held: list[Source] = []
        self._known = ""
        self._asked: set[str] = set()
        self._number = self._seq = self._offset = 0
        self._sealed_text: list[str] = []
        self._answer_at = 0
        self.answers = 0
        """How many steps have ended with tool calls in what is sealed."""
        self.ended = False
        """Whether an earlier driver has sealed `end`."""
        self._closing = self._over = False
        self._unsent: Sealed | None = None
        self._text_due = 0.0
        self._released = asyncio.Event()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._sleeping = False

    # what the driver does

    def release(self) -> None:
        """Let the lane begin: the start has been answered."""
        self._released.set()

    def text(self, text: str, place: Place, sequence: int) -> None:
        """Add text of the provider."""
        if self._surrogate or not text.isascii():
            text, self._surrogate = events.split_high_surrogate(self._surrogate + text)
        last = self._pending[-1] if self._pending else None
        if isinstance(last, _Text) and last.place == place:
            last.parts.append(text)
            last.size += len(text)
            last.sequence = sequence
        elif text:
            self._put(_Text([text], len(text), place, sequence))

    def event(self, event: Mapping[str, Any]) -> None:
        """Add an event; text before it goes first, at once."""
        self._flush_surrogate()
        self._put(_Event(event))

    def action(self, action: Mapping[str, Any]) -> None:
        """Add a bare action, which has no seq."""
        self._flush_surrogate()
        self._put(_Action(action))

    async def finish(self) -> None:
        """Let held text go; return when all is accepted."""
        self._flush_surrogate()
        self._put(_Final())
        await self.flush()

    async def flush(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        await self._idle.wait()

    def discard(self) -> None:
        """Drop what is not sealed yet: the run has its outcome, only its end may follow."""
        self._pending.clear()
        self._surrogate = ""
        self._closing = True

    def has_asked(self, tool_call_id: str) -> bool:
        """Whether an earlier driver has sealed a page's tool call: it is sent again only with its message."""
        return tool_call_id in self._asked

    @property
    def begun(self) -> bool:
        """Whether anything is sealed."""
        return self._number > 0

    @property
    def text_so_far(self) -> str:
        """The run's text as callers know it: sealed, after `on_delta`."""
        return "".join(self._sealed_text)

    @property
    def answer_so_far(self) -> str:
        """The sealed text of the newest step, the one after `answers` others."""
        return "".join(self._sealed_text[self._answer_at :])

    def restore(self, rows: Sequence[Sealed]) -> None:
        """Go on behind what an earlier driver sealed; its last message is sent again if it was not accepted.

        Where plugins change text, `replay` comes next.
        """
        for row in rows:
            self._asked |= events.tool_calls_in(row.body)
            for event in events.events_in(row.body):
                if event["type"] == "delta":
                    self._sealed_text.append(event["content"])
                elif event["type"] == "function_call":
                    self._mark_answer(len(self._sealed_text))
                self.ended = event["type"] == "end"
            self._number, self._seq, self._offset = row.number, max(self._seq, row.last_seq), row.end_offset
        if rows and rows[-1].deliver:
            self._unsent = rows[-1]

    async def replay(self, rows: Sequence[Sealed]) -> None:
        """Show plugins the text they have seen before, in the same pieces, so that they know what they knew.

        Raises NotReplayable when they make something else of it now, and what they raise themselves.
        """
        if not self._hooks.has_on_delta:
            return
        shaped = [await self._shaped(text, replay=True) for row in rows for _, text in raw_texts(row)]
        self._known = self.text_so_far
        if self._unknown("".join(shaped)):
            raise NotReplayable("plugins let go of more text after a takeover than before it")

    # the lane

    async def run(self) -> None:
        """Seal and send until cancelled, or fenced off."""
        try:
            await self._released.wait()
            going = True
            if self._unsent is not None:
                going = await self._guarded(self._send(self._unsent))
            while going:
                if not self._pending:
                    self._idle.set()
                await self._due()
                going = await self._guarded(self._turn())
        finally:
            self._over = True
            self._idle.set()

    async def _guarded(self, turn: Awaitable[None]) -> bool:
        """Await `turn`; report what it raises. Returns False when nothing may follow."""
        try:
            await turn
        except (Exception, SystemExit) as error:  # the driver logs it and ends the run
            fault = error if isinstance(error, Exception) else RuntimeError("SystemExit was raised while delivering")
            if isinstance(fault, DeliveryFailed):
                self._delivery = None
            if not self._closing:
                self._pending.clear()
            self._on_fault(fault)
            return not isinstance(fault, Fenced)
        return True

    async def _turn(self) -> None:
        closing = self._closing  # before a hook is asked: what was composed until then is not part of the ending
        message, draft = await self._compose()
        if message is None:
            return
        await self._seal(message, closing=closing)
        self._number, self._seq, self._offset = message.number, message.last_seq, message.end_offset
        for position in draft.answers_at:
            self._mark_answer(len(self._sealed_text) + position)
        self._sealed_text += draft.text
        self._held.clear()
        await self._send(message)

    async def _seal(self, message: Sealed, *, closing: bool) -> None:
        while True:
            try:
                return await asyncio.wrap_future(self._log.seal(self._run.id, self._epoch, message, closing=closing))
            except (Decided, Fenced):
                raise
            except JournalError as fault:
                if not closing:
                    raise
                self._on_fault(fault)
            await asyncio.sleep(_SEAL_AGAIN)

    async def _send(self, message: Sealed) -> None:
        if self._delivery is None:
            return
        try:
            await self._delivery.send(message.body)
        except DeliveryFailed:
            self._settle(message, "undelivered")
            raise
        self._settle(message, "accepted")

    def _settle(self, message: Sealed, state: str) -> None:
        # Not awaited: a lost mark costs one more sending of the same bytes, and the next seal meets the same fault.
        self._log.settle(self._run.id, self._epoch, message.number, state)

    async def _compose(self) -> tuple[Sealed | None, _Draft]:
        draft = _Draft(seq=self._seq, offset=self._offset)
        for entry in self._take():
            if isinstance(entry, _Text):
                await self._add_text(draft, entry)
            elif isinstance(entry, _Final):
                await self._add_text(draft, None)
            elif isinstance(entry, _Event):
                self._add_event(draft, entry.event)
            else:
                draft.actions.append(entry.action)
        if not draft.actions:
            self._held += draft.sources
            return None, draft
        return self._sealed(draft), draft

    def _sealed(self, draft: _Draft) -> Sealed:
        return Sealed(
            number=self._number + 1,
            first_seq=self._seq + 1,
            last_seq=draft.seq,
            end_offset=draft.offset,
            body=events.encode_message(draft.actions),
            sources=[*self._held, *draft.sources],
            deliver=self._delivery is not None,
        )

    async def _add_text(self, draft: _Draft, entry: _Text | None) -> None:
        """Add the text of an entry, as hooks leave it; None is the end of all text."""
        raw = "" if entry is None else events.well_formed("".join(entry.parts))
        text = raw
        if self._hooks.has_on_delta and not self._closing:
            text = self._unknown(await self._shaped(raw, final=entry is None))
        if entry is not None:
            step, part = entry.place
            kept = raw if self._hooks.has_on_delta else None
            draft.sources.append(Source(step, entry.sequence, part, len(raw), kept))
        for piece in events.pieces(text) if text else ():
            draft.text.append(piece)
            self._add_event(draft, events.delta(piece, draft.offset))
            draft.offset += events.utf16_length(piece)
            self._text_due = asyncio.get_running_loop().time() + self._interval()

    async def _shaped(self, raw: str, *, final: bool = False, replay: bool = False) -> str:
        delta = Delta(raw, final=final, replay=replay)
        await self._hooks.apply_delta(self._run, delta)
        return events.well_formed(delta.text)

    def _unknown(self, text: str) -> str:
        """Return what of a hook's text is not sealed yet: after a replay it may repeat the end of it."""
        if not self._known:
            return text
        known, self._known = self._known[: len(text)], self._known[len(text) :]
        if not text.startswith(known):
            raise NotReplayable("a plugin made other text of the same text after a takeover")
        return text[len(known) :]

    def _add_event(self, draft: _Draft, event: Mapping[str, Any]) -> None:
        draft.seq += 1
        if event["type"] == "function_call":
            draft.answers_at.append(len(draft.text))
        ids = {"threadId": self._run.thread_id, "runId": self._run.id, "seq": draft.seq}
        draft.actions.append(events.named_action({**event, **ids}, self._action_name, self._style))

    def _take(self) -> list[_Text | _Event | _Action | _Final]:
        """Return what the next message carries: everything that waits, up to a bound on its text."""
        taken: list[_Text | _Event | _Action | _Final] = []
        room = _MESSAGE_TEXT
        while self._pending and room > 0:
            entry = self._pending.popleft()
            room -= entry.size if isinstance(entry, _Text) else 0
            taken.append(entry)
        return taken

    async def _due(self) -> None:
        """Return when a message should be made: at once for events, for text when the joining interval is over."""
        loop = asyncio.get_running_loop()
        while True:
            if self._pending:
                delay = self._text_due - loop.time() if self._only_text() else 0.0
                if delay <= 0:
                    return
                timer = loop.call_later(delay, self._wake.set)
            else:
                timer = None
            self._sleeping = timer is None
            await self._wake.wait()
            self._wake.clear()
            if timer is not None:
                timer.cancel()

    def _only_text(self) -> bool:
        return len(self._pending) == 1 and isinstance(self._pending[0], _Text)

    def _put(self, entry: _Text | _Event | _Action | _Final) -> None:
        if self._over:
            return  # another driver has the run: nobody would take it out
        self._pending.append(entry)
        self._idle.clear()
        if self._sleeping or not isinstance(entry, _Text):
            self._sleeping = False
            self._wake.set()

    def _flush_surrogate(self) -> None:
        if self._surrogate:
            lone, self._surrogate = self._surrogate, ""
            self._put(_Text([lone], 1, _NOWHERE, -1))

    def _mark_answer(self, position: int) -> None:
        self._answer_at = position
        self.answers += 1
