"""What refusals and failures of providers mean: a ProviderError that holds no key and no part of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bf_plugin import ProviderError

LOST = "provider_lost_response"

_LONGEST = 500
"""Characters of a text that is an error's whole body."""

_MASKED = re.compile(r"[\w.-]*\*{3,}[\w.*-]*")
_FIXED = {401: "the provider refused the API key", 403: "the provider does not allow this with this API key"}


def refusal(
    status: int, message: object, *, code: object = None, headers: Mapping[str, str] | None = None, key: str
) -> ProviderError:
    """Return what an answer of 300 and more means. The text of a 401 or 403 quotes the key, so it is not passed on."""
    text = _FIXED.get(status) or scrub(str(message or f"the provider answered {status}"), key)
    return ProviderError(text, status=status, code=_code(code), retry_after=_retry_after(headers or {}))


def failure(message: object, *, code: object = None, status: int | None = None, key: str) -> ProviderError:
    """Return what it means that a provider fails in mid-answer."""
    text = _FIXED.get(status or 0) or scrub(str(message or "the provider failed"), key)
    return ProviderError(text, status=status, code=_code(code) or "provider_error")


def lost(why: str) -> ProviderError:
    """Return the error for an answer that broke off: none of these providers can tell the rest."""
    return ProviderError(f"the provider lost the response: {why}", code=LOST)


def unanswered(error: Exception) -> ProviderError:
    """Return what it means that there is no answer. What the exception says may hold the request, and so the key."""
    return ProviderError(f"the provider cannot be reached ({type(error).__name__})", code="provider_unreachable")


def silent(seconds: float) -> ProviderError:
    """Return the error for a provider that says nothing."""
    return ProviderError(f"the provider said nothing for {seconds:g} seconds", code="provider_timeout")


def scrub(message: str, key: str) -> str:
    """Return `message` without the key, whole or masked (`sk-ab***yz`) as providers quote it."""
    return _MASKED.sub("[key]", message.replace(key, "[key]") if key else message)


def fields_of(body: Any) -> Mapping[str, Any]:
    """Return the fields of an error's body, wherever it has them: below `error`, at its top, or as nothing but text.

    The page of a proxy says nothing that a caller could use.
    """
    if isinstance(body, str) and not body.lstrip().startswith("<"):
        return {"message": body[:_LONGEST]}
    fields = body if isinstance(body, Mapping) else {}
    nested = fields.get("error")
    if isinstance(nested, str):
        return {"message": nested}
    return nested if isinstance(nested, Mapping) else fields


def _code(value: object) -> str | None:
    return str(value) if value is not None and value != "" else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return float(milliseconds) / 1000
        seconds = headers.get("retry-after")
        return None if seconds is None else float(seconds)
    except ValueError:
        return None  # a date; whoever answers the caller has a default
