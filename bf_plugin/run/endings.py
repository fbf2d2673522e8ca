"""How runs end: what an exception means as an outcome, and what callers and pages are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from bf_plugin.errors import BFError, JournalError, PluginError, ProviderError, RequestError, StopRun
from bf_plugin.journal.records import Ending, RunEnded
from bf_plugin.journal.states import STATUS_OF
from bf_plugin.run.composer import NotReplayable
from bf_plugin.run.delivery import DeliveryFailed
from bf_plugin.values import FinishReason


class RunFailed(BFError):
    """The run cannot go on, for a reason of its own; `code` names it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def ending_of(cause: Exception) -> Ending:
    """Return what `cause` means for the run it ended."""
    if isinstance(cause, RunEnded):
        return replace(cause.ending, won=False)
    if isinstance(cause, StopRun):
        return _stopped_by_hook(cause)
    return Ending(status="failed", finish_reason="error", error=_error(cause))


def is_expected(cause: Exception | None) -> bool:
    """Tell whether `cause` can happen without anybody's mistake; if not, the log shows where it came from."""
    return isinstance(cause, BFError) and not isinstance(cause, PluginError)


def _stopped_by_hook(cause: StopRun) -> Ending:
    reason = cast("FinishReason", cause.finish_reason if cause.finish_reason in STATUS_OF else "error")
    error = {"message": cause.message or "stopped by a plugin", "code": "stopped_by_hook", "details": None}
    failed = reason in ("error", "expired")
    return Ending(status=STATUS_OF[reason], finish_reason=reason, error=error if failed else None)


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


def request_error(cause: Exception, *, operator_key: bool) -> RequestError:
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


def failure_of(ending: Ending) -> RequestError | None:
    """Return the error that a polling caller is answered with, None when the run did not fail."""
    error = ending.error or {}
    if ending.status == "expired":
        return RequestError(408, error.get("message", "the run took too long"), details=error.get("code"))
    if ending.status == "failed":
        code = error.get("code")
        return RequestError(_CODES.get(code or "", 502), error.get("message", "the run failed"), details=code)
    return None
