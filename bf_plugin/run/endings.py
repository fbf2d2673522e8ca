"""How runs end: what an exception means as an outcome, and what callers and pages are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from bf_plugin.errors import BFError, JournalError, PluginError, ProviderError, RequestError, StopRun
from bf_plugin.journal.records import Decided, Decision
from bf_plugin.run.composer import NotReplayable
from bf_plugin.run.delivery import DeliveryFailed
from bf_plugin.run.ticket import Result
from bf_plugin.values import FinishReason, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends, or would: `error` is what the `error` event says, `decided` that it is on record already."""

    status: Status
    finish_reason: FinishReason
    error: Mapping[str, Any] | None = None
    decided: bool = False
    expected: bool = True
    """Whether this can happen without anybody's mistake: else the log shows where it came from."""

    @property
    def lacks_error(self) -> bool:
        """Whether the outcome was seen without its error: the fence, which tells of outcomes, has no key to open it."""
        return self.decided and self.error is None and self.status in ("failed", "expired")

    def as_decision(self) -> Decision:
        """Return this ending as what is on record."""
        return Decision(won=False, outcome=self.status, finish_reason=self.finish_reason, error=self.error)

    @classmethod
    def of(cls, decision: Decision) -> Ending:
        """Return the ending that is on record."""
        return cls(
            status=cast("Status", decision.outcome),
            finish_reason=cast("FinishReason", decision.finish_reason),
            error=decision.error,
            decided=True,
        )


class RunFailed(BFError):
    """The run cannot go on, for a reason of its own; `code` names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def ending_of(cause: Exception) -> Ending:
    """Return what `cause` means for the run it ended."""
    if isinstance(cause, Decided):
        return Ending.of(cause.decision)
    if isinstance(cause, StopRun):
        return _stopped_by_hook(cause)
    expected = isinstance(cause, BFError) and not isinstance(cause, PluginError)
    return Ending(status="failed", finish_reason="error", error=_error(cause), expected=expected)


def _stopped_by_hook(cause: StopRun) -> Ending:
    reason = cast("FinishReason", cause.finish_reason if cause.finish_reason in get_args(FinishReason) else "error")
    if reason == "cancelled":
        return Ending(status="cancelled", finish_reason=reason)
    if reason in ("error", "expired"):
        error = {"message": cause.message or "stopped by a plugin", "code": "stopped_by_hook", "details": None}
        return Ending(status="failed" if reason == "error" else "expired", finish_reason=reason, error=error)
    return Ending(status="completed", finish_reason=reason)


def _error(cause: Exception) -> dict[str, Any]:
    """Return message, code and details of the `error` event. No key, and nothing of a traceback, is in it."""
    if isinstance(cause, ProviderError):
        problem = provider_problem(cause, operator_key=False)
        return {"message": problem.message, "code": cause.code or "provider_error", "details": problem.details}
    if isinstance(cause, RunFailed):
        return {"message": str(cause), "code": cause.code, "details": None}
    if isinstance(cause, NotReplayable):
        return {"message": str(cause), "code": "hook_not_replayable", "details": None}
    if isinstance(cause, DeliveryFailed):
        return {"message": str(cause), "code": "delivery_failed", "details": None}
    if isinstance(cause, PluginError):
        return {"message": "a plugin of the gateway failed", "code": "plugin_failed", "details": cause.plugin}
    if isinstance(cause, JournalError):
        return {"message": "the gateway's journal failed", "code": "journal_failed", "details": str(cause)}
    return {"message": "the run failed inside the gateway", "code": "internal_error", "details": type(cause).__name__}


def provider_problem(cause: ProviderError, *, operator_key: bool) -> RequestError:
    """Return a provider's refusal as the caller shall see it (contract: errors).

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


def refusal(cause: Exception, *, operator_key: bool) -> RequestError:
    """Return `cause` as the answer to a start whose run does not exist because of it."""
    if isinstance(cause, RequestError):
        return cause
    if isinstance(cause, ProviderError):
        return provider_problem(cause, operator_key=operator_key)
    error = _error(cause)
    code = 503 if isinstance(cause, JournalError) else 500
    return RequestError(code, error["message"], details=error["details"], retry_after=5.0 if code == 503 else None)


_CODES = {
    "plugin_failed": 500,
    "hook_not_replayable": 500,
    "internal_error": 500,
    "stopped_by_hook": 500,
    "step_limit": 500,
    "journal_failed": 503,
}


def failure_of(result: Result) -> RequestError | None:
    """Return what a polling caller is answered instead of a result, None when there is one."""
    error = result.error or {}
    if result.status == "expired":
        return RequestError(408, error.get("message", "the run took too long"), details=error.get("code"))
    if result.status == "failed":
        code = error.get("code")
        return RequestError(_CODES.get(code or "", 502), error.get("message", "the run failed"), details=code)
    return None
