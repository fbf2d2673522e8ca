"""How a run is brought to its end: one outcome, `end`, a thread in order, and everybody told. Called by the driver."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from bf_plugin.errors import Fenced, JournalError
from bf_plugin.gateway import events
from bf_plugin.journal import Ending, Journal, RunRecord
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.endings import request_error
from bf_plugin.run.outbox import Outbox
from bf_plugin.run.steps import StepRunner
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.runtime.logs import RunLogger
from bf_plugin.runtime.loop import settled
from bf_plugin.values import Outcome, Run, StopReason, Usage

T = TypeVar("T")

_AGAIN = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries of a write that ends a run, while the journal fails; the last one repeats."""


class Closing:
    """Ends one run. What it writes is tried until the journal takes it: half an end would block a thread for good.

    `timeout` is the run time-out, in seconds, of a queued run that comes up; `promoted` is told of it.
    """

    def __init__(
        self,
        *,
        record: RunRecord,
        run: Run,
        journal: Journal,
        hooks: HookCalls,
        outbox: Outbox,
        steps: StepRunner,
        ticket: Ticket,
        promoted: Callable[[RunRecord], None],
        timeout: float,
        log: RunLogger,
    ) -> None:
        self._record = record
        self._ids = (record.id, record.epoch)
        self._run = run
        self._journal = journal
        self._hooks = hooks
        self._outbox = outbox
        self._said = outbox.composer
        self._steps = steps
        self._ticket = ticket
        self._promoted = promoted
        self._timeout = timeout
        self._log = log
        self._troubled = False

    async def refuse(self, cause: Exception) -> None:
        """Take the run back: its start is answered with an error."""
        promoted = await self._insist(lambda: self._journal.runs.discard(*self._ids, timeout=self._timeout))
        self._log.info("the start is refused: %s", cause)
        self._ticket.refuse(request_error(cause, operator_key=self._record.spec.operator_key))
        if promoted is not None:
            self._promoted(promoted)

    async def decide(self, ending: Ending) -> Ending:
        """Propose the outcome; return the one that counts, which is that of whoever was first. Raises Fenced."""
        return await self._insist(lambda: self._journal.runs.decide(self._ids[0], ending, epoch=self._ids[1]))

    async def close(self, ending: Ending, reason: StopReason | None, content: Sequence[Mapping[str, Any]]) -> None:
        """Send `end`, leave the thread in order, free it, tell everybody. `content` is what the model said last."""
        self._outbox.discard()
        await self._steps.settle()
        if not ending.won and ending.status in ("cancelled", "expired"):
            default: StopReason = "deadline" if ending.status == "expired" else "stop"
            self._hooks.on_stop(self._run, reason or default)
        cancelling = asyncio.ensure_future(self._steps.cancel())
        usage = self._usage_so_far()
        self._say_end(ending, usage)
        await self._outbox.flush()
        promoted = await self._finish(usage)
        self._ticket.end(self._result(ending, usage, content))
        if promoted is not None:
            self._promoted(promoted)
        if (billed := await cancelling) is not None:
            usage = self._steps.usage + billed
            self._journal.runs.set_usage(self._record.id, usage)
        await self.tell(ending, usage)

    async def tell(self, ending: Ending, usage: Usage) -> None:
        """Tell the plugins how the run ended; noted afterwards, so that a crash before makes another process do it."""
        error = ending.error or {}
        outcome = Outcome(
            status=ending.status,
            finish_reason=ending.finish_reason,
            usage=usage,
            text=self._said.text,
            error_code=error.get("code"),
            error_message=error.get("message"),
            steps=tuple(self._steps.history),
            duration=(self._record.ended_at or time.time()) - (self._record.started_at or self._record.created_at),
        )
        await self._hooks.on_end(self._run, outcome)
        self._journal.runs.set_told(self._record.id)

    def trouble(self, error: JournalError) -> None:
        """Say once that the journal fails, in the log and to a caller that waits."""
        if not self._troubled:
            self._troubled = True
            self._log.error("the run waits for the journal, to be ended: %s", error)
            self._ticket.fail(request_error(error, operator_key=False))

    async def _insist(self, write: Callable[[], Future[T]]) -> T:
        """Repeat a write until the journal takes it."""
        for pause in itertools.chain(_AGAIN, itertools.repeat(_AGAIN[-1])):
            try:
                return await settled(write())
            except Fenced:
                raise
            except JournalError as error:
                self.trouble(error)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _finish(self, usage: Usage) -> RunRecord | None:
        cut = await self._steps.cut()
        finish = self._journal.runs.finish
        return await self._insist(lambda: finish(*self._ids, usage=usage, cut=cut, timeout=self._timeout))

    def _say_end(self, ending: Ending, usage: Usage) -> None:
        if self._said.ended:
            return
        if not self._said.begun:
            self._outbox.event(events.thread_info(self._record.thread_id, self._record.id))
        if ending.error is not None:
            error = ending.error
            self._outbox.event(events.error(error["message"], error["code"], error["details"]))
        self._outbox.event(events.end(ending.finish_reason, usage))

    def _usage_so_far(self) -> Usage:
        """Return the usage on record, and an estimate (four characters a token) for a step that was cut off."""
        if not self._steps.is_open:
            return self._steps.usage
        tokens = (len(self._steps.partial_text()) + 3) // 4
        return self._steps.usage + Usage(completion_tokens=tokens, total_tokens=tokens, estimated=True)

    def _result(self, ending: Ending, usage: Usage, content: Sequence[Mapping[str, Any]]) -> FullEnding:
        """Return what a polling caller is answered: the provider's content if no plugin changed its text."""
        completed = ending.status == "completed"
        answer = self._said.answer if completed else self._said.text
        untouched = "".join(part["text"]["value"] for part in content) == answer
        text = [{"type": "text", "text": {"value": answer}}] if answer else []
        return FullEnding(
            status=ending.status,
            finish_reason=ending.finish_reason,
            usage=usage,
            content=content if completed and untouched else text,
            error=ending.error,
        )
