"""One step of a run: on record, asked of the engine, streamed into the outbox, on record again."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from bf_plugin.engines.port import Access, Engine, Handle, State, StepDone, StepRequest, Stream, Text
from bf_plugin.items import Item, text_message
from bf_plugin.journal import Cut, Journal, RunRecord
from bf_plugin.journal.records import Opened
from bf_plugin.logs import get_logger
from bf_plugin.outbox import Outbox
from bf_plugin.toolcalls import cut_output
from bf_plugin.values import Run, Step, Usage

T = TypeVar("T")

_CREATE_PATIENCE = 10.0
"""Seconds to wait, after a stop during a create, for the response's name: without it nothing can be cancelled."""

_CANCEL_PATIENCE = 30.0
"""Seconds a cancel may take in all: the plugins that are told of the end wait for it."""


class StepRunner:
    """Takes the steps of one run, one after the other, and knows what a run that is cut off leaves behind."""

    def __init__(self, *, record: RunRecord, run: Run, engine: Engine | None, journal: Journal, outbox: Outbox) -> None:
        self._record = record
        self._run = run
        self._engine = engine
        self._journal = journal
        self._outbox = outbox
        self._access = Access(
            api_key=record.secrets.provider_key if record.secrets else "",
            base_url=record.spec.base_url,
            request_id=record.spec.request_id,
        )
        self._engine_key = engine_key(record.spec.provider, self._access)
        self._number = 0
        self._closed = self._asked = False
        self._parent: State | None = None
        self._handle: Handle | None = None
        self._starting: asyncio.Future[Stream] | None = None
        self._writing: asyncio.Future[Any] | None = None
        self._log = get_logger(__name__).bind(run_id=record.id, request_id=record.spec.request_id)
        self.history: list[Step] = []

    async def take(
        self, number: int, fresh: Sequence[Item], max_tokens: int | None, named: Callable[[], None]
    ) -> StepDone:
        """Ask the model; `fresh` items join the thread. `named` is called once the provider has accepted.

        Raises ProviderError, and Fenced, Decided or JournalError from the journal.
        """
        opened = await self._on_record(self._open(number, fresh, time.time()))
        stream = await self._ask(self._request(opened, max_tokens))
        self._handle = stream.handle
        await self._on_record(self._name(number, stream.handle))
        named()
        done = await self._read(stream, number)
        await self._on_record(self._close(number, done))
        return done

    async def settle(self) -> None:
        """Wait for a write that was under way when the step was broken off: what is on record then is what counts."""
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def restore(self) -> None:
        """Find out where an earlier driver of this run was."""
        last = await asyncio.to_thread(self._journal.steps.last, self._record.id)
        if last is not None:
            self._number, self._closed = last.number, last.state == "done"
            self._asked = self._closed
            self._parent, self._handle = last.parent, last.handle

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
        return self._number > 0 and not self._closed

    def partial_text(self) -> str:
        """The text of the open step that callers have seen."""
        earlier_steps = self._number - 1
        return self._outbox.answer_so_far if self.is_open and self._outbox.answers == earlier_steps else ""

    async def cut(self) -> Cut | None:
        """Return what this run leaves in its thread beyond what is on record, None when that is complete."""
        if self._record.state == "queued":
            return None  # it never came up, and another run is under way in its thread
        if self._number == 0:
            return Cut(items=list(self._record.spec.messages), engine_key=self._engine_key, state=None)
        if self._closed:
            if not self._asked:
                return None
            calls = await asyncio.to_thread(self._journal.steps.calls_of, self._record.id, self._number)
            items: list[Item] = [cut_output(call) for call in calls]
            return Cut(items=items, engine_key=self._engine_key, state=None) if items else None
        text = self.partial_text()
        items = [text_message("assistant", text)] if text else []
        return Cut(items=items, engine_key=self._engine_key, state=self._state_of_cut())

    def _state_of_cut(self) -> State | None:
        try:
            return self._engine.cut(self._parent, self._handle) if self._engine else None
        except Exception as error:  # the next run starts from the history then; this one still has to end
            self._log.error("engine %s cannot cut a step", self._record.spec.provider, error=error)
            return None

    async def _cancel(self, engine: Engine) -> Usage | None:
        handle = self._handle
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=_CREATE_PATIENCE)
            if not self._starting.done() or self._starting.cancelled():
                return None
            stream = self._starting.result()
            handle = stream.handle
            await stream.aclose()
        return None if handle is None else await engine.cancel(handle, self._access)

    async def _on_record(self, write: Coroutine[Any, Any, T]) -> T:
        """Await a write and what follows from it. If the step is broken off meanwhile, both happen all the same."""
        self._writing = asyncio.ensure_future(write)
        return await asyncio.shield(self._writing)

    async def _open(self, number: int, fresh: Sequence[Item], now: float) -> Opened:
        ids = {"thread_id": self._record.thread_id, "engine_key": self._engine_key}
        opening = self._journal.steps.open(self._record.id, self._record.epoch, number, fresh=fresh, **ids)
        opened = await asyncio.wrap_future(opening)
        self._number, self._closed, self._parent, self._handle = number, False, opened.state, None
        self._run.step = Step(number=number, started_at=now)
        return opened

    async def _name(self, number: int, handle: Handle) -> None:
        await asyncio.wrap_future(self._journal.steps.name(self._record.id, self._record.epoch, number, handle))
        self._move(response_id=handle.get("response_id"))

    def _request(self, opened: Opened, max_tokens: int | None) -> StepRequest:
        async def history() -> Sequence[Item]:
            if not opened.synced:
                return ()
            return await asyncio.to_thread(self._journal.runs.thread_items, self._record.thread_id, opened.synced)

        return StepRequest(
            run_id=self._record.id,
            number=self._number,
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

    async def _ask(self, request: StepRequest) -> Stream:
        """Start the step. The request goes on if this task is cancelled: only its answer tells what to cancel."""
        if self._engine is None:
            raise LookupError(f"no engine is installed for provider {self._record.spec.provider}")
        self._starting = asyncio.ensure_future(self._engine.start(request, self._access))
        return await asyncio.shield(self._starting)

    async def _read(self, stream: Stream, number: int) -> StepDone:
        add, done = self._outbox.text, None
        async for batch in stream.batches():
            for event in batch:
                if isinstance(event, Text):
                    add(event.text, (number, event.sequence))
                else:
                    done = event
        await stream.aclose()
        self._starting = None
        if done is None:
            raise RuntimeError(f"engine {self._record.spec.provider} ended a stream without a StepDone")
        return done

    async def _close(self, number: int, done: StepDone) -> None:
        closing = self._journal.steps.close(
            self._record.id,
            self._record.epoch,
            number,
            thread_id=self._record.thread_id,
            engine_key=self._engine_key,
            state=done.state,
            produced=done.items,
            asked=done.calls,
            usage=done.usage,
        )
        await asyncio.wrap_future(closing)
        self._closed, self._asked = True, bool(done.calls)
        self.history.append(self._move(ended_at=time.time(), usage=done.usage))

    def _move(self, **changes: Any) -> Step:
        """Change the step that hooks see."""
        present = self._run.step or Step(number=self._number, started_at=time.time())
        self._run.step = dataclasses.replace(present, **changes)
        return self._run.step


def engine_key(provider: str, access: Access) -> str:
    """Return whose state a thread holds: a digest of engine, base URL and key."""
    parts = "\0".join((provider, access.base_url or "", access.api_key))
    return hashlib.sha256(b"bf_plugin engine\0" + parts.encode()).hexdigest()
