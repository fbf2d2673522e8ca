"""Everything that can go wrong, as one tree. Every room raises these, and hooks may raise two of them.

BFError
├── RequestError           an HTTP answer with a Feathers name: 400 BadRequest, 401 NotAuthenticated, ...
│   └── RunRejected        raised by a `before_run` hook
├── ProviderError          the model provider refused or failed
├── PluginError            a plugin raised, or could not be loaded
├── ContextError           a plugin used its store or the loop where it cannot
├── StopRun                raised by a hook to end the run
├── DeliveryError
│   ├── DeliveryRetry      in doubt or for now: the same bytes are sent again
│   └── DeliveryRefused    for good
├── JournalError           the database cannot be used, with what to do about it
│   └── Fenced             another driver owns this run now
└── ConfigurationError     a setting that cannot work, found at start
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    400: "BadRequest",
    401: "NotAuthenticated",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    409: "Conflict",
    413: "PayloadTooLarge",
    415: "UnsupportedMediaType",
    422: "Unprocessable",
    429: "TooManyRequests",
    500: "GeneralError",
    502: "BadGateway",
    503: "Unavailable",
}
"""HTTP status to the error name Feathers gives it (feathersjs.com, errors), which BetterForms clients read."""


class BFError(Exception):
    """The root: catch this to catch everything the plugin raises on purpose."""


class RequestError(BFError):
    """A request that we cannot serve, as the caller sees it.

    `errors` maps field paths (`payload.messages.0.role`) to what is wrong with them; `data` joins the body's `data`;
    `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        errors: Mapping[str, str] | None = None,
        details: str | None = None,
        data: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code if code in NAMES else 500
        self.message = message
        self.errors = dict(errors or {})
        self.details = details
        self.data = dict(data or {})
        self.retry_after = retry_after

    @property
    def name(self) -> str:
        """The Feathers name, such as `BadRequest`."""
        return NAMES[self.code]


def invalid(field: str, problem: str, code: int = 400) -> RequestError:
    """Return the error for one bad field; its message is `field problem`."""
    return RequestError(code, f"{field} {problem}", errors={field: problem})


class RunRejected(RequestError):
    """Raise from `before_run` to refuse a start: the caller gets `status` and `message`."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(status, message, retry_after=retry_after)


class ProviderError(BFError):
    """The provider refused a request or failed a response.

    `status` is its HTTP status (None: no answer, or in mid-stream), `code` its error code, `retry_after` in seconds.
    The message holds no key: engines remove the one they used.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.retry_after = retry_after


class PluginError(BFError):
    """A plugin raised, or cannot be loaded: `plugin` is its name, `problem` the message without it."""

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(f"plugin {plugin}: {message}")
        self.plugin = plugin
        self.problem = message


class ContextError(BFError):
    """A plugin used `store` or `run_async` of its context where that cannot work; the message says what to do."""


class StopRun(BFError):
    """Raise from `on_delta` or `on_tool_call` to end the run.

    `finish_reason` is what `end` will say: `stop`, `length`, `content_filter` and `cancelled` are endings, `error` and
    `expired` are failures and send `message` in an `error` event first.
    """

    def __init__(self, finish_reason: str = "stop", message: str = "") -> None:
        super().__init__(message or finish_reason)
        self.finish_reason = finish_reason
        self.message = message


class DeliveryError(BFError):
    """A message did not reach the gateway."""


class DeliveryRetry(DeliveryError):
    """Delivery is in doubt or refused for now (no answer, 408, 425, 429, 5xx): send the same bytes again."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeliveryRefused(DeliveryError):
    """The gateway will never accept this message (any other 4xx)."""


class JournalError(BFError):
    """The database cannot be used; the message says what to do."""


class Fenced(JournalError):
    """Another driver took the run over: stop, and send nothing more."""


class ConfigurationError(BFError):
    """A setting that cannot work; the message names it and says what to set."""


def error_body(error: RequestError, *, request_id: str, action_name: str | None) -> dict[str, Any]:
    """Return the body of an error answer: the union of what BetterForms clients read."""
    details = error.details or "; ".join(f"{field} {problem}" for field, problem in error.errors.items()) or None
    return {
        "success": False,
        "name": error.name,
        "message": error.message,
        "code": error.code,
        "className": _class_name(error.name),
        "actionName": action_name,
        "errors": error.errors,
        "data": {**error.data, "requestId": request_id},
        "error": {"message": error.message, "code": error.code, "details": details},
    }


def _class_name(name: str) -> str:
    """Return the Feathers class name: `NotFound` is `not-found`."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("-")
