"""The steps of one run: each is recorded, asked of the provider, streamed into the outbox, and recorded as done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bf_plugin.engines.port import BaseStream, Cursor, Handle, State, StepDone, StepRequest, Text
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, text_message
from bf_plugin.journal.records import CallRecord, Cut, Opened, RunRecord, Sealed, StepRecord, shared
from bf_plugin.journal.runs import RunStore
from bf_plugin.journal.states import DONE, QUEUED
from bf_plugin.journal.steps import StepStore
from bf_plugin.run.composer import Composer, cursor_of
from bf_plugin.run.exchange import Exchange
from bf_plugin.run.outbox import Outbox
from bf_plugin.run.toolcalls import cut_output
from bf_plugin.runtime.logs import RunLogger
from bf_plugin.runtime.loop import unbroken
from bf_plugin.values import Run, Step, Usage

T = TypeVar("T")

LOST_RESPONSE = "provider_lost_response"

Named = Callable[[], None]
"""Called once the provider has accepted a step and its name is on record."""


@dataclass(kw_only=True, eq=False, repr=False)
class StepRunner:
    """Takes the steps of one run, one after the other, and knows what a run that is cut off leaves behind.

    `history` are the steps that are done, `number` is the newest step.
    """

    record: RunRecord
    run: Run
    exchange: Exchange
    steps: StepStore
    runs: RunStore
    composer: Composer
    outbox: Outbox
    log: RunLogger

    def __post_init__(self) -> None:
        self._thread: dict[str, Any] = {"thread_id": self.record.thread_id, "engine_key": self.exchange.key}
        self.number = 0
        self.history: list[Step] = []
        self._closed = self._asked = self._heard = False
        self._parent: State | None = None
        self._handle: Handle | None = None
        self._before: list[StepRecord] = []
        self._writing: asyncio.Future[Any] | None = None

    async def take(self, fresh: Sequence[Item], max_tokens: int | None, named: Named) -> StepDone:
        """Ask the model; `fresh` items join the thread.

        Raises ProviderError, and Fenced, RunEnded or JournalError from the journal.
        """
        opened = await self._on_record(self._open(self.number + 1, fresh, time.time()))
        return await self._ask(opened, max_tokens, named)

    async def restore(self) -> None:
        """Read how far an earlier driver of this run came."""
        self._before = await asyncio.to_thread(self.steps.all, self.record.id)
        for step in self._before:
            self.number, self._closed = step.number, step.state == DONE
            self._asked = self._closed
            self._parent, self._handle = step.parent, step.handle
            self.run.step = _public(step)
            if self._closed:
                self.history.append(self.run.step)

    async def resume(
        self,
        rows: Sequence[Sealed],
        max_tokens: int | None,
        named: Named,
        announce: Callable[[int, Sequence[CallRecord]], None],
    ) -> StepDone | None:
        """Continue where an earlier driver stopped; `rows` are the messages it sealed.

        Returns how the newest step ended, None when the run had not come to its first. `announce` gets the number and
        the calls of each step before it: messages may lag behind the steps. A response that can no longer be followed
        is asked for again if no text of it was sealed, or came just now. Raises as `take`, and ProviderError with code
        `provider_lost_response`.
        """
        if not self._before:
            return None
        for step in self._before[:-1]:
            self._send_rest(step, cursor_of(rows, step.number))
            announce(step.number, await self.calls(step.number))
        cursor = cursor_of(rows, self.number)
        if self._closed:
            step = self._before[-1]
            self._send_rest(step, cursor)
            calls: list[FunctionCall] = [
                {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
                for call in await self.calls()
            ]
            return StepDone(state=None, calls=calls, content=step.content, finish_reason=step.finish_reason)
        if self._handle is not None:
            self._heard = any(cursor.texts.values())
            try:
                return await self._read(await self.exchange.resume(self._handle, cursor), named)
            except ProviderError as error:
                if error.code != LOST_RESPONSE or self._heard:
                    raise
                self.log.info("cannot follow the response; asking for it again: %s", error)
        opened = await self._on_record(self._reopen())
        return await self._ask(opened, max_tokens, named)

    async def calls(self, number: int | None = None) -> list[CallRecord]:
        """Return the calls of a step, by default the newest one, as they are on record."""
        return await asyncio.to_thread(self.steps.calls_of, self.record.id, number or self.number)

    async def settle(self) -> None:
        """Wait for a write that was under way when the step was cancelled: what the journal has then counts."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def cancel(self) -> Usage | None:
        """Cancel the provider's response; return its usage if reported.

        Raises nothing: the run has its outcome, whatever the provider answers.
        """
        return None if self._closed else await self.exchange.cancel(self._handle)

    @property
    def usage(self) -> Usage:
        """The usage of the finished steps."""
        return sum((step.usage for step in self.history), Usage())

    @property
    def is_open(self) -> bool:
        """Whether a step was begun and not finished."""
        return self.number > 0 and not self._closed

    def partial_text(self) -> str:
        """Return the text of the open step that callers have seen."""
        earlier_steps = self.number - 1
        return self.composer.answer if self.is_open and self.composer.answers == earlier_steps else ""

    async def cut(self) -> Cut | None:
        """Return what this run adds to its thread, None when the thread is complete."""
        key = self.exchange.key
        if self.record.state == QUEUED:
            return None  # it never came up, and another run is under way in its thread
        if self.number == 0:
            return Cut(items=list(self.record.spec.messages), engine_key=key, state=None)
        if self._closed:
            items: list[Item] = [cut_output(call) for call in await self.calls()] if self._asked else []
            return Cut(items=items, engine_key=key, state=None) if items else None
        text = self.partial_text()
        items = [text_message("assistant", text)] if text else []
        return Cut(items=items, engine_key=key, state=self.exchange.cut(self._parent, self._handle))

    async def _ask(self, opened: Opened, max_tokens: int | None, named: Named) -> StepDone:
        async def history() -> Sequence[Item]:
            read = self.runs.thread_items
            return await asyncio.to_thread(read, self.record.thread_id, opened.synced) if opened.synced else ()

        request = StepRequest(
            **shared(self.run, StepRequest),
            **shared(opened, StepRequest),
            run_id=self.record.id,
            number=self.number,
            history=history,
            max_tokens=max_tokens,
        )
        stream = await self.exchange.start(request)
        self._handle = stream.handle
        await self._on_record(self._name(stream.handle))
        return await self._read(stream, named)

    async def _read(self, stream: BaseStream, named: Named) -> StepDone:
        """Stream a response into the outbox and put its end on record."""
        named()
        number, add = self.number, self.outbox.text

        def say(text: Text) -> None:
            if not self._heard:
                self._heard = True
                self._move(first_text_at=time.time())
            add(text.text, (number, text.part), text.sequence)

        self.outbox.reads_from(stream.hold)
        try:
            done = await self.exchange.read(stream, say)
        finally:
            self.outbox.reads_from(None)
        await self._on_record(self._close(done))
        return done

    async def _on_record(self, write: Coroutine[Any, Any, T]) -> T:
        """Await a write and what follows from it. Both happen even if the step is cancelled meanwhile."""
        self._writing = asyncio.ensure_future(write)
        return await unbroken(self._writing)

    async def _open(self, number: int, fresh: Sequence[Item], now: float) -> Opened:
        opened = await asyncio.wrap_future(self.steps.open(*self.record.ids, number, fresh=fresh, **self._thread))
        self.number, self._parent, self._handle = number, opened.state, None
        self._closed = self._heard = False
        self.run.step = Step(number=number, started_at=now)
        return opened

    async def _reopen(self) -> Opened:
        opened = await asyncio.wrap_future(self.steps.reopen(*self.record.ids, self.number, **self._thread))
        cut = self.exchange.cut(opened.state, self._handle)
        self._handle = None
        return replace(opened, state=cut)

    async def _name(self, handle: Handle) -> None:
        await asyncio.wrap_future(self.steps.name(*self.record.ids, self.number, handle))
        self._move(response_id=handle.get("response_id"))

    async def _close(self, done: StepDone) -> None:
        closing = self.steps.close(
            *self.record.ids,
            self.number,
            **self._thread,
            state=done.state,
            produced=done.items,
            asked=done.calls,
            content=done.content,
            finish_reason=done.finish_reason,
            usage=done.usage,
        )
        await asyncio.wrap_future(closing)
        self._closed, self._asked = True, bool(done.calls)
        self.history.append(self._move(ended_at=time.time(), usage=done.usage, finish_reason=done.finish_reason))

    def _move(self, **changes: Any) -> Step:
        """Change the step that hooks see."""
        present = self.run.step or Step(number=self.number, started_at=time.time())
        self.run.step = replace(present, **changes)
        return self.run.step

    def _send_rest(self, step: StepRecord, cursor: Cursor) -> None:
        """Send the text of a finished step that was not sealed."""
        parts = sorted(cursor.texts)
        known = "".join(cursor.texts[part] for part in parts)
        whole = "".join(part["text"]["value"] for part in step.content)
        if not whole.startswith(known):
            raise ProviderError("its text is not the text already sent", code=LOST_RESPONSE)
        if len(whole) > len(known):
            self.outbox.text(whole[len(known) :], (step.number, parts[-1] if parts else (0, 0)), cursor.sequence)


def _public(step: StepRecord) -> Step:
    """Return what plugins see of a step on record."""
    response_id = (step.handle or {}).get("response_id")
    ended = step.finish_reason if step.state == DONE else None
    return Step(**{**shared(step, Step), "response_id": response_id, "finish_reason": ended})
