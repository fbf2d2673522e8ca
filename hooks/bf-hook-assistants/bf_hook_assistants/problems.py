"""What refusals and failures of the server mean: a ProviderError that holds no key and no part of one.

What OpenAI and Azure answer, from reports in public repositories read in November 2026, 400 or 404, `code` null:
"Can't add messages to thread_x while a run run_y is active.", "Thread thread_x already has an active run run_y.",
"Cannot cancel run with status 'completed'.", "Runs in status "expired" do not accept tool outputs.",
"No thread found with id 'thread_x'.", "No assistant found with id 'asst_x'."
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bf_plugin import ProviderError

LOST = "provider_lost_response"

_MASKED = re.compile(r"[\w.-]*\*{3,}[\w.*-]*")
_FIXED = {401: "the provider refused the API key", 403: "the provider does not allow this with this API key"}
_ACTIVE = re.compile(r"while a run .* is active|has an active run|run is (already )?active", re.IGNORECASE | re.DOTALL)


def refusal(status: int, body: Any, headers: Mapping[str, str], key: str) -> ProviderError:
    """Return what an answer of 300 and more means. The text of a 401 or 403 quotes the key, so it is not passed on."""
    fields = _fields(body)
    said = fields.get("message") or fields.get("detail") or f"the provider answered {status}"
    text = _FIXED.get(status) or scrub(str(said), key)
    return ProviderError(text, status=status, code=_code(fields), retry_after=_retry_after(headers))


def failure(error: Any, key: str) -> ProviderError:
    """Return what an `error` event, or a failed run's `last_error`, means."""
    fields = _fields(error)
    code = _code(fields)
    text = scrub(str(fields.get("message") or "the provider failed"), key)
    return ProviderError(text, status=429 if code == "rate_limit_exceeded" else None, code=code or "provider_error")


def lost(why: str) -> ProviderError:
    """Return the error for a run that can no longer be followed."""
    return ProviderError(f"the provider lost the response: {why}", code=LOST)


def unanswered(error: BaseException) -> ProviderError:
    """Return what it means that there is no answer. What the exception says may hold the request, and so the key."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return ProviderError("the provider did not answer in time", code="provider_timeout")
    return ProviderError("the provider cannot be reached", code="provider_unreachable")


def is_busy(problem: ProviderError) -> bool:
    """Tell whether a thread was refused because a run of it is not over."""
    return problem.status in (400, 409) and _ACTIVE.search(problem.message) is not None


def may_pass(problem: ProviderError) -> bool:
    """Tell whether the same question may get an answer later."""
    return problem.status is None or problem.status in (408, 425, 429) or problem.status >= 500


def scrub(message: str, key: str) -> str:
    """Return `message` without the key, whole or masked (`sk-ab***yz`) as providers quote it."""
    return _MASKED.sub("[key]", message.replace(key, "[key]") if key else message)


def _fields(body: Any) -> Mapping[str, Any]:
    """Return the fields of an error, wherever it has them: below `error`, or at its top."""
    fields = body if isinstance(body, Mapping) else {}
    nested = fields.get("error")
    if isinstance(nested, str):
        return {"message": nested}
    return nested if isinstance(nested, Mapping) else fields


def _code(fields: Mapping[str, Any]) -> str | None:
    value = fields.get("code")
    return str(value) if value is not None and value != "" else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return float(milliseconds) / 1000
        seconds = headers.get("retry-after")
        return None if seconds is None else float(seconds)
    except ValueError:
        return None  # a date; whoever answers the caller has a default
