"""What ends a run, as an outcome, an event and an answer."""

from __future__ import annotations

import pytest

from bf_plugin.errors import JournalError, PluginError, ProviderError, RequestError, StopRun
from bf_plugin.journal.records import CANCELLED, Ending, RunEnded
from bf_plugin.run.ending import RunFailed, ending_of, failure_of, is_expected, request_error
from bf_plugin.run.outbox import DeliveryFailed
from bf_plugin.run.ticket import FullEnding
from bf_plugin.values import Usage

CAUSES = [
    (ProviderError("no model", status=404, code="model_not_found"), "model_not_found", 400),
    (ProviderError("down", status=500), "provider_error", 502),
    (ProviderError("slow", status=408), "provider_error", 502),
    (ProviderError("gone"), "provider_error", 502),
    (ProviderError("limit", status=429, retry_after=7.0), "provider_error", 429),
    (ProviderError("locked", status=409), "provider_error", 409),
    (RunFailed("step_limit", "too many"), "step_limit", 500),
    (DeliveryFailed("404"), "delivery_failed", 500),
    (PluginError("guard", "on_delta raised KeyError"), "plugin_failed", 500),
    (JournalError("disk is full; free space"), "journal_failed", 503),
    (KeyError("sk-secret"), "internal_error", 500),
]


@pytest.mark.parametrize(("cause", "code", "status"), CAUSES)
def test_a_failure(cause: Exception, code: str, status: int) -> None:
    """Its event names it, and the answer to a start that it refuses has the right status."""
    ending = ending_of(cause)

    assert (ending.status, ending.finish_reason, ending.won) == ("failed", "error", True)
    assert ending.error is not None
    assert ending.error["code"] == code
    assert "sk-secret" not in str(ending.error)
    answer = request_error(cause, operator_key=False)
    assert answer.code == status
    assert "sk-secret" not in answer.message


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key(status: int) -> None:
    """The provider's text quotes the key, so the answer has a text of its own: 502 for the operator's, 401 else."""
    cause = ProviderError("Incorrect API key provided: sk-1234", status=status)

    answers = [request_error(cause, operator_key=True), request_error(cause, operator_key=False)]

    assert [answer.code for answer in answers] == [502, 401]
    assert not any("sk-1234" in answer.message + str(answer.details) for answer in answers)
    assert "sk-1234" not in str(ending_of(cause).error)


def test_unplanned_failures_are_shown_in_the_log() -> None:
    """With a traceback: a bug of a plugin or of ours. What may happen without anybody's mistake has none."""
    assert not is_expected(KeyError("x"))
    assert not is_expected(PluginError("guard", "x"))
    assert is_expected(ProviderError("x"))


@pytest.mark.parametrize(
    ("reason", "status", "says"),
    [
        ("stop", "completed", None),
        ("length", "completed", None),
        ("content_filter", "completed", None),
        ("cancelled", "cancelled", None),
        ("error", "failed", "because"),
        ("expired", "expired", "because"),
    ],
)
def test_a_plugin_stops_a_run(reason: str, status: str, says: str | None) -> None:
    """StopRun's reason is the finish reason; failures have a message."""
    ending = ending_of(StopRun(reason, "because"))

    assert (ending.status, ending.finish_reason) == (status, reason)
    assert (ending.error or {}).get("message") == says


def test_an_outcome_on_record_is_obeyed() -> None:
    """With its error; one that was seen without it has to be looked up."""
    error = {"message": "late", "code": "run_expired", "details": None}
    seen = RunEnded(Ending(won=False, status="expired", finish_reason="expired"))
    read = RunEnded(Ending(won=False, status="expired", finish_reason="expired", error=error))

    assert ending_of(seen).lacks_error
    assert not ending_of(read).lacks_error
    assert ending_of(read) == Ending(status="expired", finish_reason="expired", error=error, won=False)
    assert not ending_of(RunEnded(CANCELLED)).lacks_error


def _ended(status: str, code: str | None = None) -> FullEnding:
    error = None if code is None else {"message": "why", "code": code, "details": None}
    return FullEnding(status=status, finish_reason="stop", usage=Usage(), content=[], error=error)  # type: ignore[arg-type]


def test_what_a_polling_caller_is_told() -> None:
    """A result for what was completed or stopped, 408 for a deadline, 5xx for the rest."""
    assert failure_of(_ended("completed")) is None
    assert failure_of(_ended("cancelled")) is None
    told = [_ended("expired"), *(_ended("failed", code) for code in ("journal_failed", "plugin_failed", "x", None))]
    errors = [failure_of(ending) for ending in told]
    assert [error.code for error in errors if isinstance(error, RequestError)] == [408, 503, 500, 502, 502]
