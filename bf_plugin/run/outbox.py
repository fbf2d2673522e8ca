"""The outgoing lane of one run: joins text, seals messages, and sends them in order, one at a time.

Each message is committed to the journal before its first byte is sent, so a seq never names two contents. Text joins
while a message is in flight and within the joining interval of the last text: a slow gateway gets fewer, larger
messages. The lane holds the provider's stream when more text waits than one message holds, and in a crowded process
until the text is due: one read costs as much as another, however much it brings.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.errors import DeliveryError, DeliveryRefused, DeliveryRetry, Fenced, JournalError
from bf_plugin.gateway.messengers import Destination, Messenger
from bf_plugin.journal.log import RunLog
from bf_plugin.journal.records import RunEnded, Sealed
from bf_plugin.journal.states import ACCEPTED, UNSENT
from bf_plugin.run.composer import MESSAGE_TEXT, Action, Composer, Entry, Event, Final, PartKey, Text, take
from bf_plugin.run.pace import Pace

_GIVE_UP_TIMEOUT = 30.0  # seconds after a first failure until a message is given up
_SEAL_AGAIN = 1.0  # seconds until the lane tries the journal again with what ends a run
_QUIET = 0.1  # seconds without a further message after which the lane marks the last one as accepted


class DeliveryFailed(DeliveryError):
    """A message was given up; nothing more of its run will be sent."""

    code = "delivery_failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sends the messages of one run: the same bytes until they are accepted, or for `timeout` seconds of failures."""

    messenger: Messenger
    destination: Destination
    timeout: float = field(default=_GIVE_UP_TIMEOUT, kw_only=True)

    async def send(self, body: bytes) -> None:
        """Return once the gateway has accepted `body`. Raises DeliveryFailed."""
        give_up: float | None = None
        backoff = 0.1
        while True:
            try:
                return await self.messenger.send(self.destination, body)
            except DeliveryRefused as error:
                raise DeliveryFailed(f"the gateway refused a message: {error}") from None
            except DeliveryRetry as error:
                now = asyncio.get_running_loop().time()
                give_up = give_up or now + self.timeout
                jitter = random.uniform(0.75, 1.25)  # noqa: S311 - no secret; else runs would try again in step
                pause = max(backoff * jitter, error.retry_after or 0.0)
                if now + pause > give_up:
                    raise DeliveryFailed(f"the gateway took no message for {self.timeout:g} s: {error}") from None
                backoff = min(2 * backoff, 3.0)
                await asyncio.sleep(pause)


class Outbox:
    """One run's lane. The driver puts text, events and actions in; `run` is the task that sends them.

    `on_fault` is told when the lane cannot go on as meant: DeliveryFailed (what follows is sealed, but not sent),
    RunEnded, Fenced (nothing follows), JournalError, or what an `on_delta` hook raised. What ends a run is sealed,
    however long the journal fails. `pace` says for how long text is joined. Without a `delivery` (a polling caller)
    messages are sealed only.
    """

    def __init__(
        self,
        *,
        composer: Composer,
        log: RunLog,
        delivery: Delivery | None,
        pace: Pace,
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._composer = composer
        self._log = log
        self._delivery = delivery
        self._pace = pace
        self._on_fault = on_fault
        self._pending: deque[Entry] = deque()
        self._half: tuple[str, PartKey, int] | None = None
        self._closing = self._over = self._held = False
        self._hold: Callable[[bool], None] | None = None
        self._unsent: Sealed | None = None
        self._unmarked: Sealed | None = None  # accepted, and neither followed nor marked yet
        self._text_due = 0.0
        self._released, self._idle = asyncio.Event(), asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._marking: asyncio.TimerHandle | None = None

    def release(self) -> None:
        """Let the lane begin: the start has been answered."""
        self._released.set()

    def reads_from(self, hold: Callable[[bool], None] | None) -> None:
        """Say how to hold the stream that text comes from now; None: it cannot be held, or there is none."""
        self._hold, self._held = hold, False

    def text(self, text: str, part: PartKey, sequence: int) -> None:
        """Add text of the provider; what comes after `discard` is not said any more.

        Text that ends in half a character waits as a whole for the other half: a cursor may not lie within a delta.
        """
        if self._closing:
            return
        if self._half is not None and self._half[1] == part:
            text, self._half = self._half[0] + text, None
        self._add_half()
        if "\ud800" <= text[-1:] <= "\udbff":
            self._half = (text, part, sequence)
        else:
            self._add(text, part, sequence)

    def event(self, event: Mapping[str, Any]) -> None:
        """Add an event; text before it goes first, at once."""
        self._put(Event(event))

    def action(self, action: Mapping[str, Any]) -> None:
        """Add a bare action, which has no seq."""
        self._put(Action(action))

    async def finish(self) -> None:
        """Let held text go; return when all is accepted."""
        self._put(Final())
        await self.flush()

    async def flush(self) -> None:
        """Return when nothing waits and nothing is in flight."""
        await self._idle.wait()

    def discard(self) -> None:
        """Drop what is not sealed yet: the run has its outcome, only its end may follow."""
        self._pending.clear()
        self._half = None
        self._closing = True

    def restore(self, rows: Sequence[Sealed]) -> None:
        """Go on behind what an earlier driver sealed; send its last message again if it was not accepted."""
        self._composer.restore(rows)
        if rows and rows[-1].deliver:
            self._unsent = rows[-1]

    def read_on(self) -> bool:
        """Go on reading, if that was held; return whether it was."""
        held, self._held = self._held, False
        if held and self._hold is not None:
            self._hold(False)
        return held

    def wake(self) -> None:
        """Look again whether something is to be sent."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self) -> None:
        """Seal and send until cancelled, or fenced off."""
        try:
            await self._released.wait()
            going = self._unsent is None or await self._guarded(self._send(self._unsent))
            while going:
                if not self._pending:
                    self._idle.set()
                await self._due()
                going = await self._guarded(self._turn())
        finally:
            self._over = True
            self._idle.set()
            if not self._composer.ended:
                self._mark()

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
        draft = await self._composer.compose(take(self._pending), deliver=self._delivery is not None, closing=closing)
        if draft.message is None:
            return
        if draft.text:
            self._text_due = self._pace.due()
        await self._seal(draft.message, closing=closing)
        self._unmarked = None  # that another message follows it says as much
        self._composer.keep(draft, draft.message)
        await self._send(draft.message)
        if not draft.numbered:
            self._mark()  # a page's tool call should not come twice

    async def _seal(self, message: Sealed, *, closing: bool) -> None:
        while True:
            try:
                return await self._log.seal(message, closing=closing)
            except JournalError as fault:
                if not closing or isinstance(fault, (RunEnded, Fenced)):
                    raise
                self._on_fault(fault)
            await asyncio.sleep(_SEAL_AGAIN)

    async def _send(self, message: Sealed) -> None:
        if self._delivery is None:
            return
        try:
            await self._delivery.send(message.body)
        except DeliveryFailed:
            self._log.settle(message.number, UNSENT)
            raise
        self._unmarked = message

    def _mark_later(self, before: Sealed | None = None) -> None:
        """Mark the last message if nothing follows it for a while; one timer serves many messages."""
        if before is not None:
            self._marking = None
            if self._unmarked is before:
                return self._mark()
        if self._unmarked is not None and self._marking is None:
            soon = asyncio.get_running_loop().call_later
            self._marking = soon(_QUIET, self._mark_later, self._unmarked)
        return None

    def _mark(self) -> None:
        """Put on record that the last message was accepted, where no later one has said so."""
        message, self._unmarked = self._unmarked, None
        if message is not None:
            # Not awaited: a lost mark costs one more sending of the same bytes, and the next seal meets the same fault.
            self._log.settle(message.number, ACCEPTED)

    async def _due(self) -> None:
        """Return when a message should be made: at once for events, for text when the joining interval is over."""
        loop = asyncio.get_running_loop()
        while not self._pending or (self._only_text() and (self._held or loop.time() < self._text_due)):
            if self._pending:
                self._pace.on_beat(max(self._text_due, loop.time()), self)
            else:
                self.read_on()
                self._mark_later()
            self._waiter = loop.create_future()
            await self._waiter
        self._waiter = None

    def _only_text(self) -> bool:
        return len(self._pending) == 1 and isinstance(self._pending[0], Text)

    def _put(self, entry: Entry) -> None:
        if not isinstance(entry, Text):
            self._add_half()
        if self._over:
            return  # the lane has ended: another driver has the run
        self._pending.append(entry)
        self._idle.clear()
        if self._waiter is None:
            return  # the lane is at work and sees it by itself
        if not self._only_text() or asyncio.get_running_loop().time() >= self._text_due:
            self.wake()
        else:
            self._pace.on_beat(self._text_due, self)

    def _add_half(self) -> None:
        half, self._half = self._half, None
        if half is not None:
            self._add(*half)

    def _add(self, text: str, part: PartKey, sequence: int) -> None:
        last = self._pending[-1] if self._pending else None
        if isinstance(last, Text) and last.part == part:
            last.pieces.append(text)
            last.size += len(text)
            last.sequence = sequence
        elif text:
            last = Text([text], len(text), part, sequence)
            self._put(last)
        else:
            return
        if self._hold is None or self._held or not (self._pace.crowded or last.size > MESSAGE_TEXT):
            return
        in_flight = self._waiter is None
        if in_flight or asyncio.get_running_loop().time() < self._text_due:
            self._held = True
            self._hold(True)
