"""The driver of one run: it takes steps, runs tools, finds one outcome, and leaves a thread that works afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bf_plugin.engines.port import BaseEngine
from bf_plugin.errors import Fenced, JournalError
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Messenger
from bf_plugin.items import Item
from bf_plugin.journal import Ending, Journal, RunEnded, RunRecord
from bf_plugin.journal.records import CallRecord, Sealed, shared
from bf_plugin.journal.states import ENDED
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.composer import Composer
from bf_plugin.run.ending import Closing, RunFailed, ending_of, is_expected, request_error
from bf_plugin.run.exchange import Exchange
from bf_plugin.run.outbox import Delivery, Outbox
from bf_plugin.run.pace import Pace
from bf_plugin.run.steps import StepRunner
from bf_plugin.run.ticket import Ticket
from bf_plugin.run.toolcalls import ToolCalls
from bf_plugin.runtime.logs import get_logger
from bf_plugin.settings import Settings
from bf_plugin.values import Run, StopReason

ATTEMPTS = 3
"""Takeovers in a row, without a newly committed message or step between them, after which a run is given up."""

_POLLED_INTERVAL = 0.5
"""Seconds over which text is joined when no page receives messages: they are only the event log then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all drivers of a process share. `engine` and `messenger` return None for one that is not installed."""

    journal: Journal
    hooks: HookCalls
    settings: Settings
    pace: Pace
    engine: Callable[[str], BaseEngine | None]
    messenger: Callable[[RunRecord], Messenger | None]


class Drive:
    """Drives one run. `run` is its task; `stop`, `answered` and `release` are its signals, called on the loop.

    `epoch` tells which of the run's drivers this is. A later one continues where an earlier driver, in another process,
    stopped. `promoted` is called with the queued run that starts when this one has ended.
    """

    def __init__(
        self, record: RunRecord, parts: Parts, *, ticket: Ticket, promoted: Callable[[RunRecord], None]
    ) -> None:
        spec, journal, hooks, settings = record.spec, parts.journal, parts.hooks, parts.settings
        self.epoch = record.epoch
        self._record = record
        self._messages = journal.log
        self._settings = settings
        self._ticket = ticket
        self._run = run = run_of(record)
        secrets = (record.secrets.app_key, record.secrets.provider_key) if record.secrets else ()
        self._log = log = get_logger(__name__, secrets=secrets).bind(run_id=record.id, request_id=spec.request_id)
        self._work: asyncio.Future[Ending] | None = None
        self._interruption: Exception | None = None
        self._stop_reason: StopReason | None = None
        self._expiring: asyncio.Future[None] | None = None
        self._content: Sequence[Mapping[str, Any]] = ()
        messenger = parts.messenger(record) if spec.channels else None
        self._composer = composer = Composer(
            run=run, hooks=hooks, action_name=spec.action_name, style=settings.event_style
        )
        self._outbox = outbox = Outbox(
            composer=composer,
            log=journal.log.of(record.id, record.epoch),
            delivery=Delivery(messenger, record.destination()) if messenger is not None else None,
            pace=parts.pace if spec.channels else Pace(_POLLED_INTERVAL),
            on_fault=self._interrupt,
        )
        self._tools = ToolCalls(
            run=run,
            epoch=record.epoch,
            steps=journal.steps,
            hooks=hooks,
            composer=composer,
            outbox=outbox,
            settings=settings,
        )
        self._exchange = Exchange(record, parts.engine(spec.provider), log)
        self._steps = StepRunner(
            record=record,
            run=run,
            exchange=self._exchange,
            steps=journal.steps,
            runs=journal.runs,
            composer=composer,
            outbox=outbox,
            log=log,
        )
        self._closing = Closing(
            record=record,
            run=run,
            runs=journal.runs,
            hooks=hooks,
            composer=composer,
            outbox=outbox,
            steps=self._steps,
            ticket=ticket,
            promoted=promoted,
            timeout=settings.run_timeout,
            log=log,
        )

    def stop(self, ending: Ending, reason: StopReason) -> None:
        """End the run with an ending that is on record already."""
        self._stop_reason = reason
        self._interrupt(RunEnded(ending))

    def answered(self, tool_call_id: str) -> None:
        """Look at the journal: a page has answered a tool call."""
        self._tools.answered(tool_call_id)

    def release(self) -> None:
        """Send events from now on: the start has been answered."""
        self._outbox.release()

    async def run(self) -> None:
        """Drive the run until it has ended, another driver has it, or this process hands it over (cancellation)."""
        lane: asyncio.Future[None] | None = None
        deadline = self._watch_deadline()
        try:
            rows = await self._restore() if self._record.epoch > 1 else ()
            if self._record.state == ENDED and self._record.ending is not None:
                return await self._closing.tell(self._record.ending, self._record.usage)
            lane = asyncio.ensure_future(self._outbox.run())
            await self._drive(rows)
        except Fenced:
            self._log.info("another process took the run over")
            self._ticket.fail(request_error(JournalError("another process took the run over")))
        except Exception as error:
            self._log.error(
                "this process cannot drive the run; the next process to start takes it: %s", error, error=error
            )
            self._ticket.fail(request_error(error))
        finally:
            deadline.cancel()
            if lane is not None:
                lane.cancel()
            await self._exchange.let_go()

    async def _drive(self, rows: Sequence[Sealed]) -> None:
        ending, cause = await self._converse_or_fail(rows)
        if isinstance(cause, RunEnded):
            self._ticket.accept()
        elif cause is not None and self._ticket.claim():
            return await self._closing.refuse(cause)
        if ending.error is not None and ending.won:
            self._log.warning("the run fails: %s", cause, error=None if is_expected(cause) else cause)
        if ending.won:
            await self._outbox.flush()  # what came before a failure is the page's
        if ending.won or ending.lacks_error:
            ending = await self._closing.decide(ending)
        await self._closing.close(ending, self._stop_reason, self._content)
        return None

    async def _restore(self) -> Sequence[Sealed]:
        """Read how far an earlier driver came; return the messages it sealed."""
        rows = await asyncio.to_thread(self._messages.all, self._record.id)
        self._outbox.restore(rows)
        await self._steps.restore()
        if (ending := self._record.ending) is not None:
            self._interruption = self._interruption or RunEnded(ending)
        elif (attempts := self._record.attempts) > ATTEMPTS:
            text = f"{attempts} processes in a row ended while they drove this run; its text is kept"
            self._interruption = RunFailed("too_many_takeovers", text)
        return rows

    async def _converse_or_fail(self, rows: Sequence[Sealed]) -> tuple[Ending, Exception | None]:
        """Return how the conversation ended, and the cause if it was not the model."""
        if self._interruption is None:
            self._work = asyncio.ensure_future(self._converse(rows))
            try:
                await asyncio.wait({self._work})
            finally:
                self._work.cancel()  # if this task is cancelled; when only its work is, this task goes on
            error = asyncio.CancelledError() if self._work.cancelled() else self._work.exception()
            if error is None:
                return self._work.result(), None
            if not isinstance(error, Exception):
                error = RunFailed("internal_error", f"{type(error).__name__} was raised inside the run")
            self._interruption = self._interruption or error
        if isinstance(self._interruption, Fenced):
            raise self._interruption
        return ending_of(self._interruption), self._interruption

    async def _converse(self, rows: Sequence[Sealed]) -> Ending:
        if not self._composer.begun:
            self._outbox.event(events.thread_info(self._record.thread_id, self._record.id))
        await self._composer.replay(rows)
        done = await self._steps.resume(rows, self._budget(), self._ticket.accept, self._tools.announce)
        before: Sequence[CallRecord] = await self._steps.calls() if done else ()
        fresh: Sequence[Item] = self._record.spec.messages
        limit = self._settings.step_limit
        while True:
            if done is not None:
                self._content = done.content
                if not done.calls:
                    return await self._complete(done.finish_reason)
                fresh = await self._tools.run_all(self._steps.number, done.calls, before)
            budget = self._budget()
            if budget is not None and budget <= 0:
                return await self._complete("length")
            if self._steps.number == limit:
                raise RunFailed("step_limit", f"the model took {limit} steps and still asks for tools")
            done, before = await self._steps.take(fresh, budget, self._ticket.accept), ()

    def _budget(self) -> int | None:
        limit = self._run.options.get("max_completion_tokens")
        return None if limit is None else limit - self._steps.usage.completion_tokens

    async def _complete(self, finish_reason: Any) -> Ending:
        await self._outbox.finish()
        return Ending(status="completed", finish_reason=finish_reason)

    def _interrupt(self, cause: Exception) -> None:
        """Cancel the conversation because of `cause`; only the first cause counts."""
        if self._work is not None and self._work.done():
            if isinstance(cause, JournalError) and not isinstance(cause, (RunEnded, Fenced)):
                self._closing.complain(cause)
            elif not isinstance(cause, RunEnded):
                self._log.info("the run has ended, and then: %s", cause)
            return
        if self._interruption is None:
            self._interruption = cause
            if self._work is not None:
                self._work.cancel()

    def _watch_deadline(self) -> asyncio.TimerHandle:
        seconds = (self._record.deadline or time.time() + self._settings.run_timeout) - time.time()

        def expire() -> None:
            self._expiring = asyncio.ensure_future(self._expire())  # kept: the loop holds tasks weakly

        return asyncio.get_running_loop().call_later(max(seconds, 0), expire)

    async def _expire(self) -> None:
        message = f"the run took longer than {self._settings.run_timeout:g} seconds"
        ending = Ending(
            status="expired",
            finish_reason="expired",
            error={"message": message, "code": "run_expired", "details": None},
        )
        try:
            self._interrupt(RunEnded(await self._closing.decide(ending)))
        except Fenced as fault:
            self._interrupt(fault)


def run_of(record: RunRecord) -> Run:
    """Return what hooks are given of a run."""
    spec = record.spec
    own = {
        "started_at": record.started_at or record.created_at,
        "tools": tuple(spec.tools),
        "messages": tuple(spec.messages),
    }
    return Run(**{**shared(record, Run), **shared(spec, Run), **own})
