"""Where refusals and the SDK's exceptions end: each becomes a ProviderError that carries no key and no part of one.

What a server refuses is remembered, and left out the next time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from bf_plugin.errors import ProviderError
from bf_plugin.runtime.text import retry_after_seconds

_MASKED = re.compile(r"[\w.-]*\*{3,}[\w.*-]*")
_FIXED = {401: "the provider refused the API key", 403: "the provider does not allow this with this API key"}

Background = Literal["auto", "on", "off"]

CONVERSATIONS = "conversations"

_REFUSALS = (400, 422, 501)
_NAMES = {
    "stream_options": re.compile(r"stream_options|include_obfuscation"),
    "background": re.compile(r"\bbackground\b"),
}
_STREAMING = frozenset({"background", "stream", "stream_options", "stream_options.include_obfuscation"})


class Problem(ProviderError):
    """A ProviderError with the parameter that the provider named."""

    param: str | None = None


def problem_of(error: Exception, key: str) -> Problem:
    """Return what an exception of the SDK, or of the transport below it, means."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return _unanswered(error)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return refusal_of(status, getattr(error, "body", None), headers, key)


def refusal_of(status: int, body: object, headers: Mapping[str, str], key: str) -> Problem:
    """Return what a refusal means; `body` is what its JSON says. The error may be nested in it, and stand in a list."""
    if isinstance(body, list) and body:
        body = body[0]
    fields = body if isinstance(body, Mapping) else {}
    nested = fields.get("error")
    fields = nested if isinstance(nested, Mapping) else fields
    message = (
        fields.get("message")
        or (nested if isinstance(nested, str) else None)
        or _detail(fields)
        or f"the provider answered {status}"
    )
    problem = Problem(
        _FIXED.get(status) or scrub(str(message), key),
        status=status,
        code=_text(fields.get("code")),
        retry_after=_retry_after(headers),
    )
    problem.param = _text(fields.get("param"))
    return problem


def event_problem(event: Mapping[str, Any], key: str) -> Problem:
    """Return what an `error` event, or a failed response's `error`, means; some servers nest it under `error`."""
    nested = event.get("error")
    fields = nested if isinstance(nested, Mapping) else event
    code = _text(fields.get("code")) or (_text(fields.get("type")) if fields is nested else None)
    message = fields.get("message") or (nested if isinstance(nested, str) else "the provider failed")
    status = 429 if code == "rate_limit_exceeded" else None
    return Problem(scrub(str(message), key), code=code, status=status)


def scrub(message: str, key: str) -> str:
    """Return `message` without the key, whole or masked (`sk-ab***yz`) as providers quote it."""
    return _MASKED.sub("[key]", message.replace(key, "[key]") if key else message)


def _unanswered(error: Exception) -> Problem:
    """The exception's own text may hold request headers, so none of it is used."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Problem("the provider did not answer in time", code="provider_timeout")
    if isinstance(error, openai.APIConnectionError):
        return Problem("the provider cannot be reached", code="provider_unreachable")
    return Problem(f"the request to the provider failed ({type(error).__name__})", code="provider_error")


def _detail(fields: Mapping[str, Any]) -> str | None:
    """FastAPI servers answer `{"detail": ...}`, a text or a list of findings."""
    detail = fields.get("detail")
    return str(detail) if detail else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, in_a_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name) or "") / in_a_second
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return retry_after_seconds(headers.get("retry-after"))


def _text(value: object) -> str | None:
    return str(value) if value is not None and value != "" else None


class Quirks:
    """What servers refuse, learned from their answers and remembered per base URL for the life of the engine.

    Decides which optional parameters go along. `background` "on" insists, "off" never asks for it."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._refused: dict[str | None, set[str]] = {}

    def refused(self, base_url: str | None, name: str) -> bool:
        """Tell whether this server was seen to refuse `name`."""
        return name in self._refused.get(base_url, ())

    def remember(self, base_url: str | None, name: str) -> None:
        """Do without `name` at this server from now on."""
        self._refused.setdefault(base_url, set()).add(name)

    def parameters(self, base_url: str | None, *, stored: bool) -> dict[str, Any]:
        """Return the parameters that decide how a response is run. A response that is not stored has no background."""
        parameters: dict[str, Any] = {"stream": True, "store": stored}
        if not self.refused(base_url, "stream_options"):
            parameters["stream_options"] = {"include_obfuscation": False}
        if stored and self._background != "off" and not self.refused(base_url, "background"):
            parameters["background"] = True
        return parameters

    def learn(self, base_url: str | None, body: Mapping[str, Any], problem: Problem) -> bool:
        """Tell whether the request is worth repeating without a parameter that this answer is about."""
        if problem.status not in _REFUSALS or (problem.param and problem.param not in _STREAMING):
            return False
        about = f"{problem.param or ''} {problem.message}"
        for name, pattern in _NAMES.items():
            if name in body and pattern.search(about) and not (name == "background" and self._background == "on"):
                self.remember(base_url, name)
                return True
        return False
