"""How a run ends: what a cause means as an ending, what callers are told, and the work of bringing a run to its end.

The driver calls this; use cases and `web` take the errors for callers from here.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from bf_plugin.errors import BFError, Fenced, JournalError, PluginError, ProviderError, RequestError, StopRun
from bf_plugin.gateway import events
from bf_plugin.journal.records import Ending, RunEnded, RunRecord
from bf_plugin.journal.runs import RunStore
from bf_plugin.journal.states import STATUS_OF
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.composer import Composer, NotReplayable
from bf_plugin.run.outbox import DeliveryFailed, Outbox
from bf_plugin.run.steps import StepRunner
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.runtime.logs import RunLogger
from bf_plugin.runtime.loop import settled
from bf_plugin.runtime.text import tokens_of
from bf_plugin.values import FinishReason, Outcome, Run, StopReason, Usage

T = TypeVar("T")

_AGAIN = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between tries of a write that ends a run, while the journal fails; the last one repeats."""

_INTERNAL = ("plugin_failed", "hook_not_replayable", "internal_error", "stopped_by_hook", "step_limit")
_HTTP_STATUS = {**dict.fromkeys(_INTERNAL, 500), "journal_failed": 503}
"""The status of the answer to a polling caller, by the code of the error that ended its run; 502 for all others."""


class RunFailed(BFError):
    """The run cannot go on, for a reason of its own; `code` names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(kw_only=True, eq=False, repr=False)
class Closing:
    """Ends one run. It tries each write until the journal takes it: half an end would block a thread for good.

    When the end frees the thread for a queued run, that one has `timeout` seconds, and `promoted` is called with it.
    """

    record: RunRecord
    run: Run
    runs: RunStore
    hooks: HookCalls
    composer: Composer
    outbox: Outbox
    steps: StepRunner
    ticket: Ticket
    promoted: Callable[[RunRecord], None]
    timeout: float
    log: RunLogger
    _complained: bool = field(default=False, init=False)

    async def refuse(self, cause: Exception) -> None:
        """Take the run back: its start is answered with an error."""
        promoted = await self._insist(lambda: self.runs.discard(*self.record.ids, timeout=self.timeout))
        self.log.info("the start is refused: %s", cause)
        self.ticket.refuse(request_error(cause, operator_key=self.record.spec.operator_key))
        if promoted is not None:
            self.promoted(promoted)

    async def decide(self, ending: Ending) -> Ending:
        """Propose an ending; return the one that counts, which is the first. Raises Fenced."""
        return await self._insist(lambda: self.runs.decide(self.record.id, ending, epoch=self.record.epoch))

    async def close(self, ending: Ending, reason: StopReason | None, content: Sequence[Mapping[str, Any]]) -> None:
        """Send `end`, leave the thread in order, free it, tell who waits. `content` is what the model said last."""
        self.outbox.discard()
        await self.steps.settle()
        if not ending.won and ending.status in ("cancelled", "expired"):
            default: StopReason = "deadline" if ending.status == "expired" else "stop"
            self.hooks.on_stop(self.run, reason or default)
        cancelling = asyncio.ensure_future(self.steps.cancel())
        usage = self._usage_so_far()
        self._say_end(ending, usage)
        await self.outbox.flush()
        cut = await self.steps.cut()
        promoted = await self._insist(
            lambda: self.runs.finish(*self.record.ids, usage=usage, cut=cut, timeout=self.timeout)
        )
        self.ticket.end(self._full(ending, usage, content))
        if promoted is not None:
            self.promoted(promoted)
        if (billed := await cancelling) is not None:
            usage = self.steps.usage + billed
            self.runs.set_usage(self.record.id, usage)
        await self.tell(ending, usage)

    async def tell(self, ending: Ending, usage: Usage) -> None:
        """Tell the plugins how the run ended, then note that: after a crash before it, another process tells them."""
        error = ending.error or {}
        outcome = Outcome(
            status=ending.status,
            finish_reason=ending.finish_reason,
            usage=usage,
            text=self.composer.text,
            error_code=error.get("code"),
            error_message=error.get("message"),
            steps=tuple(self.steps.history),
            duration=(self.record.ended_at or time.time()) - (self.record.started_at or self.record.created_at),
        )
        await self.hooks.on_end(self.run, outcome)
        self.runs.set_told(self.record.id)

    def complain(self, error: JournalError) -> None:
        """Report once that the journal fails, in the log and to a caller that waits."""
        if not self._complained:
            self._complained = True
            self.log.error("cannot record the run's end; retrying: %s", error)
            self.ticket.fail(request_error(error))

    async def _insist(self, write: Callable[[], Future[T]]) -> T:
        """Repeat a write until the journal takes it."""
        for pause in itertools.chain(_AGAIN, itertools.repeat(_AGAIN[-1])):
            try:
                return await settled(write())
            except Fenced:
                raise
            except JournalError as error:
                self.complain(error)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _say_end(self, ending: Ending, usage: Usage) -> None:
        if self.composer.ended:
            return
        if not self.composer.begun:
            self.outbox.event(events.thread_info(self.record.thread_id, self.record.id))
        if (error := ending.error) is not None:
            self.outbox.event(events.error(error["message"], error["code"], error["details"]))
        self.outbox.event(events.end(ending.finish_reason, usage))

    def _usage_so_far(self) -> Usage:
        """Return the usage on record, and an estimate (four characters a token) for a step that was cut off."""
        if not self.steps.is_open:
            return self.steps.usage
        tokens = tokens_of(len(self.steps.partial_text()))
        return self.steps.usage + Usage(completion_tokens=tokens, total_tokens=tokens, estimated=True)

    def _full(self, ending: Ending, usage: Usage, content: Sequence[Mapping[str, Any]]) -> FullEnding:
        """Return what a polling caller gets: the provider's content if no plugin changed its text."""
        completed = ending.status == "completed"
        answer = self.composer.answer if completed else self.composer.text
        untouched = "".join(part["text"]["value"] for part in content) == answer
        text = [{"type": "text", "text": {"value": answer}}] if answer else []
        return FullEnding(
            status=ending.status,
            finish_reason=ending.finish_reason,
            error=ending.error,
            usage=usage,
            content=content if completed and untouched else text,
        )


def ending_of(cause: Exception) -> Ending:
    """Return what `cause` means for the run it ended."""
    if isinstance(cause, RunEnded):
        return replace(cause.ending, won=False)
    if isinstance(cause, StopRun):
        reason = cast("FinishReason", cause.finish_reason if cause.finish_reason in STATUS_OF else "error")
        error = {"message": cause.message or "stopped by a plugin", "code": "stopped_by_hook", "details": None}
        failed = reason in ("error", "expired")
        return Ending(status=STATUS_OF[reason], finish_reason=reason, error=error if failed else None)
    return Ending(status="failed", finish_reason="error", error=_error(cause))


def is_expected(cause: Exception | None) -> bool:
    """Tell whether `cause` can happen without anybody's mistake; if not, the log shows where it came from."""
    return isinstance(cause, BFError) and not isinstance(cause, PluginError)


def _error(cause: Exception) -> dict[str, Any]:
    """Return message, code and details of the `error` event. It has no key in it, and nothing of a traceback."""
    if isinstance(cause, ProviderError):
        problem = _provider_problem(cause, operator_key=False)
        return {"message": problem.message, "code": cause.code or "provider_error", "details": problem.details}
    if isinstance(cause, (RunFailed, NotReplayable, DeliveryFailed)):
        return {"message": str(cause), "code": cause.code, "details": None}
    if isinstance(cause, PluginError):
        return {"message": "a plugin of the gateway failed", "code": "plugin_failed", "details": cause.plugin}
    if isinstance(cause, JournalError):
        return {"message": "the gateway's journal failed", "code": "journal_failed", "details": str(cause)}
    return {"message": "the run failed inside the gateway", "code": "internal_error", "details": type(cause).__name__}


def request_error(cause: Exception, *, operator_key: bool = False) -> RequestError:
    """Return `cause` as the answer to a request that fails because of it, such as a start whose run does not exist."""
    if isinstance(cause, RequestError):
        return cause
    if isinstance(cause, ProviderError):
        return _provider_problem(cause, operator_key=operator_key)
    error = _error(cause)
    code = 503 if isinstance(cause, JournalError) else 500
    return RequestError(code, error["message"], details=error["details"], retry_after=5.0 if code == 503 else None)


def _provider_problem(cause: ProviderError, *, operator_key: bool) -> RequestError:
    """Return a provider's error as the caller shall see it (contract: errors).

    401 and 403 have fixed text, since the provider's own quotes the key.
    """
    if cause.status in (401, 403):
        if operator_key:
            return RequestError(502, "the provider refused the key configured for this app: tell the operator")
        return RequestError(401, "the provider refused payload.apiKey", errors={"payload.apiKey": "was refused"})
    if cause.status == 429:
        text = f"the provider is out of quota or limits its rate: {cause.message}"
        return RequestError(429, text, retry_after=cause.retry_after or 1.0)
    if cause.status == 409:
        return RequestError(409, cause.message, retry_after=cause.retry_after or 1.0)
    if cause.status is not None and 400 <= cause.status < 500 and cause.status != 408:
        return RequestError(400, f"the provider refused the request: {cause.message}", details=cause.code)
    return RequestError(502, f"the provider failed: {cause.message}", details=cause.code)


def failure_of(ending: Ending) -> RequestError | None:
    """Return the error that a polling caller is answered with, None when the run did not fail."""
    error = ending.error or {}
    if ending.status == "expired":
        return RequestError(408, error.get("message", "the run took too long"), details=error.get("code"))
    if ending.status == "failed":
        code = error.get("code")
        return RequestError(_HTTP_STATUS.get(code or "", 502), error.get("message", "the run failed"), details=code)
    return None
