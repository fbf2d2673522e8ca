"""One step of a run: on record, asked of the engine, streamed into the outbox, on record again."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypedDict, TypeVar

from bf_plugin.engines.port import (
    Access,
    BaseEngine,
    BaseStream,
    Cursor,
    Event,
    Handle,
    State,
    StepDone,
    StepRequest,
    Text,
)
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, text_message
from bf_plugin.journal import Cut, Journal, RunRecord
from bf_plugin.journal.records import Opened, Sealed
from bf_plugin.journal.states import DONE, QUEUED
from bf_plugin.journal.steps import CallRecord, StepRecord
from bf_plugin.run.cursors import cursor_of
from bf_plugin.run.outbox import Outbox
from bf_plugin.run.toolcalls import cut_output
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import unbroken
from bf_plugin.values import Run, Step, Usage

T = TypeVar("T")

LOST_RESPONSE = "provider_lost_response"

_CREATE_PATIENCE = 10.0
"""Seconds to wait, after a stop during a create, for the response's name: without it nothing can be cancelled."""

_CANCEL_PATIENCE = 30.0
"""Seconds a cancel may take in all: the plugins that are told of the end wait for it."""

Named = Callable[[], None]
"""Called once the provider has accepted a step and its name is on record."""

Announce = Callable[[int, Sequence[CallRecord]], None]
"""Called with a step's number and its calls, if the page may not know of them."""


class _Thread(TypedDict):
    """Where the items of a step go, and whose state stands beside them."""

    thread_id: str
    engine_key: str


class StepRunner:
    """Takes the steps of one run, one after the other, and knows what a run that is cut off leaves behind."""

    def __init__(
        self, *, record: RunRecord, run: Run, engine: BaseEngine | None, journal: Journal, outbox: Outbox
    ) -> None:
        self._record = record
        self._run = run
        self._engine = engine
        self._journal = journal
        self._outbox = outbox
        self._access = Access(
            api_key=record.secrets.provider_key if record.secrets else "",
            base_url=record.spec.base_url,
            request_id=record.spec.request_id,
            traceparent=record.spec.traceparent,
            tracestate=record.spec.tracestate,
        )
        self._ids = (record.id, record.epoch)
        self._thread: _Thread = {
            "thread_id": record.thread_id,
            "engine_key": engine_key(record.spec.provider, self._access),
        }
        self.number = 0
        self._closed = self._asked = self._heard = False
        self._parent: State | None = None
        self._handle: Handle | None = None
        self._before: list[StepRecord] = []
        self._starting: asyncio.Future[BaseStream] | None = None
        self._writing: asyncio.Future[Any] | None = None
        self._log = get_logger(__name__).bind(run_id=record.id, request_id=record.spec.request_id)
        self.history: list[Step] = []

    async def take(self, fresh: Sequence[Item], max_tokens: int | None, named: Named) -> StepDone:
        """Ask the model; `fresh` items join the thread.

        Raises ProviderError, and Fenced, RunEnded or JournalError from the journal.
        """
        opened = await self._on_record(self._open(self.number + 1, fresh, time.time()))
        return await self._ask(opened, max_tokens, named)

    async def restore(self) -> None:
        """Find out where an earlier driver of this run was."""
        for step in await asyncio.to_thread(self._journal.steps.all, self._record.id):
            self.number, self._closed = step.number, step.state == DONE
            self._before.append(step)
            self._asked = self._closed
            self._parent, self._handle = step.parent, step.handle
            self._run.step = _public(step)
            if self._closed:
                self.history.append(self._run.step)

    async def resume(
        self, rows: Sequence[Sealed], max_tokens: int | None, named: Named, announce: Announce
    ) -> StepDone | None:
        """Go on where an earlier driver was; `rows` are the messages it sealed.

        Returns how the newest step ended, None when the run had not come to its first. The calls of steps before it are
        handed to `announce`: messages may lag behind the steps. A response that can no longer be followed is asked for
        again if no text of it was sealed, or came just now. Raises as `take`, and ProviderError with code
        `provider_lost_response`.
        """
        if not self._before:
            return None
        for step in self._before[:-1]:
            self._send_rest(step, cursor_of(rows, step.number))
            announce(step.number, await self.calls(step.number))
        cursor = cursor_of(rows, self.number)
        if self._closed:
            return await self._finished(self._before[-1], cursor)
        if self._handle is not None:
            try:
                return await self._follow(self._handle, cursor, named)
            except ProviderError as error:
                if error.code != LOST_RESPONSE or self._heard:
                    raise
                self._log.info("the response is asked for again: %s", error)
        opened = await self._on_record(self._reopen())
        return await self._ask(opened, max_tokens, named)

    async def calls(self, number: int | None = None) -> list[CallRecord]:
        """Return the calls of a step, by default the present one, as they are on record."""
        return await asyncio.to_thread(self._journal.steps.calls_of, self._record.id, number or self.number)

    async def settle(self) -> None:
        """Wait for a write that was under way when the step was broken off: what is on record then is what counts."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def cancel(self) -> Usage | None:
        """Stop what the provider still does for this run; returns the usage of that response if it tells.

        Raises nothing: the run has its outcome, whatever the provider answers.
        """
        if self._engine is None or self._closed:
            return None
        try:
            return await asyncio.wait_for(self._cancel(self._engine), _CANCEL_PATIENCE)
        except Exception as error:
            self._log.info("the provider was not told to stop: %s: %s", type(error).__name__, error)
            return None

    async def let_go(self) -> None:
        """Drop the connection to the provider, whatever it does."""
        if self._starting is None:
            return
        if not self._starting.done():
            self._starting.cancel()
        elif not self._starting.cancelled() and self._starting.exception() is None:
            try:
                await self._starting.result().aclose()
            except Exception as error:  # an engine's matter: the run is over
                self._log.warning("a connection to the provider was not closed", error=error)

    @property
    def usage(self) -> Usage:
        """The usage of the finished steps."""
        return sum((step.usage for step in self.history), Usage())

    @property
    def is_open(self) -> bool:
        """Whether a step was begun and not finished."""
        return self.number > 0 and not self._closed

    def partial_text(self) -> str:
        """The text of the open step that callers have seen."""
        earlier_steps = self.number - 1
        said = self._outbox.composer
        return said.answer if self.is_open and said.answers == earlier_steps else ""

    async def cut(self) -> Cut | None:
        """Return what this run leaves in its thread beyond what is on record, None when that is complete."""
        key = self._thread["engine_key"]
        if self._record.state == QUEUED:
            return None  # it never came up, and another run is under way in its thread
        if self.number == 0:
            return Cut(items=list(self._record.spec.messages), engine_key=key, state=None)
        if self._closed:
            items: list[Item] = [cut_output(call) for call in await self.calls()] if self._asked else []
            return Cut(items=items, engine_key=key, state=None) if items else None
        text = self.partial_text()
        items = [text_message("assistant", text)] if text else []
        return Cut(items=items, engine_key=key, state=self._state_of_cut(self._parent))

    def _state_of_cut(self, parent: State | None) -> State | None:
        try:
            return self._engine.cut(parent, self._handle) if self._engine else None
        except Exception as error:  # the next step starts from the history then; this one still has to end
            self._log.error("engine %s cannot cut a step", self._record.spec.provider, error=error)
            return None

    async def _cancel(self, engine: BaseEngine) -> Usage | None:
        handle = self._handle
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=_CREATE_PATIENCE)
            if not self._starting.done() or self._starting.cancelled():
                return None
            stream = self._starting.result()
            handle = stream.handle
            await stream.aclose()
        return None if handle is None else await engine.cancel(handle, self._access)

    async def _ask(self, opened: Opened, max_tokens: int | None, named: Named) -> StepDone:
        """Start the step. The request goes on if this task is cancelled: only its answer tells what to cancel."""
        request = self._request(opened, max_tokens)
        self._starting = asyncio.ensure_future(self._installed().start(request, self._access))
        stream = await unbroken(self._starting)
        self._handle = stream.handle
        await self._on_record(self._name(stream.handle))
        return await self._read(stream, named)

    async def _follow(self, handle: Handle, cursor: Cursor, named: Named) -> StepDone:
        self._starting = asyncio.ensure_future(self._installed().resume(handle, cursor, self._access))
        self._heard = any(cursor.texts.values())
        return await self._read(await unbroken(self._starting), named)

    async def _read(self, stream: BaseStream, named: Named) -> StepDone:
        """BaseStream a response into the outbox and put its end on record."""
        named()
        add, number = self._outbox.text, self.number
        ends: list[StepDone] = []

        def take(events: Sequence[Event]) -> None:
            for event in events:
                if isinstance(event, Text):
                    if not self._heard:
                        self._heard = True
                        self._move(first_text_at=time.time())
                    add(event.text, (number, event.part), event.sequence)
                else:
                    ends.append(event)

        self._outbox.reads_from(stream.hold)
        try:
            await stream.read(take)
        finally:
            self._outbox.reads_from(None)
        await stream.aclose()
        self._starting = None
        if not ends:
            raise RuntimeError(f"engine {self._record.spec.provider} ended a stream without a StepDone")
        await self._on_record(self._close(ends[-1]))
        return ends[-1]

    async def _on_record(self, write: Coroutine[Any, Any, T]) -> T:
        """Await a write and what follows from it. If the step is broken off meanwhile, both happen all the same."""
        self._writing = asyncio.ensure_future(write)
        return await unbroken(self._writing)

    async def _open(self, number: int, fresh: Sequence[Item], now: float) -> Opened:
        opening = self._journal.steps.open(*self._ids, number, fresh=fresh, **self._thread)
        opened = await asyncio.wrap_future(opening)
        self.number, self._parent, self._handle = number, opened.state, None
        self._closed = self._heard = False
        self._run.step = Step(number=number, started_at=now)
        return opened

    async def _reopen(self) -> Opened:
        opened = await asyncio.wrap_future(self._journal.steps.reopen(*self._ids, self.number, **self._thread))
        cut = self._state_of_cut(opened.state)
        self._handle = None
        return dataclasses.replace(opened, state=cut)

    async def _name(self, handle: Handle) -> None:
        await asyncio.wrap_future(self._journal.steps.name(*self._ids, self.number, handle))
        self._move(response_id=handle.get("response_id"))

    async def _close(self, done: StepDone) -> None:
        closing = self._journal.steps.close(
            *self._ids,
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
        present = self._run.step or Step(number=self.number, started_at=time.time())
        self._run.step = dataclasses.replace(present, **changes)
        return self._run.step

    async def _finished(self, step: StepRecord, cursor: Cursor) -> StepDone:
        """Return the end of a step that is on record."""
        self._send_rest(step, cursor)
        calls: list[FunctionCall] = [
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
            for call in await self.calls()
        ]
        return StepDone(state=None, calls=calls, content=step.content, finish_reason=step.finish_reason)

    def _send_rest(self, step: StepRecord, cursor: Cursor) -> None:
        """Send what of a finished step's text was not sealed."""
        parts = sorted(cursor.texts)
        known = "".join(cursor.texts[part] for part in parts)
        whole = "".join(part["text"]["value"] for part in step.content)
        if not whole.startswith(known):
            raise ProviderError("its text is not the text already sent", code=LOST_RESPONSE)
        if len(whole) > len(known):
            self._outbox.text(whole[len(known) :], (step.number, parts[-1] if parts else (0, 0)), cursor.sequence)

    def _request(self, opened: Opened, max_tokens: int | None) -> StepRequest:
        async def history() -> Sequence[Item]:
            read = self._journal.runs.thread_items
            return await asyncio.to_thread(read, self._record.thread_id, opened.synced) if opened.synced else ()

        return StepRequest(
            run_id=self._record.id,
            number=self.number,
            model=self._run.model,
            instructions=self._run.instructions,
            tools=self._run.tools,
            options=self._run.options,
            metadata=self._run.metadata,
            new=opened.new,
            state=opened.state,
            history=history,
            max_tokens=max_tokens,
        )

    def _installed(self) -> BaseEngine:
        if self._engine is None:
            raise LookupError(f"no engine is installed for provider {self._record.spec.provider}")
        return self._engine


def _public(step: StepRecord) -> Step:
    """Return what plugins see of a step on record."""
    return Step(
        number=step.number,
        response_id=(step.handle or {}).get("response_id"),
        started_at=step.started_at,
        ended_at=step.ended_at,
        usage=step.usage,
        finish_reason=step.finish_reason if step.state == DONE else None,
    )


def engine_key(provider: str, access: Access) -> str:
    """Return whose state a thread holds: a digest of engine, base URL and key."""
    parts = "\0".join((provider, access.base_url or "", access.api_key))
    return hashlib.sha256(b"bf_plugin engine\0" + parts.encode()).hexdigest()
