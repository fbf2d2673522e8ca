"""Refusals in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The texts are OpenAI's own where they have been reported, since clients have to parse some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """Answered to the client as it is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class PlainError(ApiError):
    """An error whose body is not in OpenAI's shape."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status, "")
        self.body = body


_GENERAL: Mapping[int, tuple[str, str, str | None]] = {
    401: ("invalid_request_error", "Incorrect API key provided: sk-si***or.", "invalid_api_key"),
    403: (
        "invalid_request_error",
        "You are not allowed to access this resource.",
        "unsupported_country_region_territory",
    ),
    404: ("invalid_request_error", "Not found.", None),
    409: ("invalid_request_error", "The resource was changed by another request.", None),
    429: ("requests", "Rate limit reached for requests. Please try again later.", "rate_limit_exceeded"),
    500: ("server_error", "The server had an error while processing your request. Sorry about that!", None),
    503: ("service_unavailable_error", "The server is overloaded or not ready yet. Please try again later.", None),
}


def general(status: int, *, code: str | None = None, message: str | None = None, retry_after: Any = None) -> ApiError:
    """Return an error that has nothing to do with the request."""
    kind, usual, usual_code = _GENERAL.get(status, ("invalid_request_error", f"HTTP error {status}.", None))
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return ApiError(status, message or usual, code=code or usual_code, kind=kind, headers=headers)


def invalid_url(method: str, path: str) -> ApiError:
    """Return the answer to a path that does not exist."""
    return ApiError(404, f"Invalid URL ({method} {path})")


def no_key() -> ApiError:
    """Return the answer to a request without a key."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY).",
    )


def wrong_key(key: str) -> ApiError:
    """Return the answer to a wrong key, which quotes a part of it as the provider does."""
    quoted = f"{key[:5]}***{key[-2:]}" if len(key) > 8 else "***"
    return ApiError(
        401,
        f"Incorrect API key provided: {quoted}. You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def missing(param: str) -> ApiError:
    """Return the refusal of a request without `param`."""
    return ApiError(400, f"Missing required parameter: '{param}'.", code="missing_required_parameter", param=param)


def unknown(param: str) -> ApiError:
    """Return the refusal of a parameter that does not exist."""
    return ApiError(400, f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def wrong_type(param: str, expected: str, value: object) -> ApiError:
    """Return the refusal of a value of the wrong JSON type."""
    return ApiError(
        400,
        f"Invalid type for '{param}': expected {expected}, but got {_json_type(value)} instead.",
        code="invalid_type",
        param=param,
    )


def wrong_value(param: str, value: object, supported: tuple[str, ...]) -> ApiError:
    """Return the refusal of a value that is not one of the supported ones."""
    listed = ", ".join(f"'{name}'" for name in supported)
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return ApiError(400, message, code="invalid_value", param=param)


def too_long(param: str, limit: int, length: int) -> ApiError:
    """Return the refusal of an array with too many elements."""
    return ApiError(
        400,
        f"Invalid '{param}': array too long. Expected an array with maximum length {limit}, but got an array with "
        f"length {length} instead.",
        code="array_above_max_length",
        param=param,
    )


def response_not_found(response_id: str) -> ApiError:
    """Return the answer to an unknown response."""
    return ApiError(404, f"Response with id '{response_id}' not found.")


def previous_not_found(response_id: str) -> ApiError:
    """Return the refusal of an unknown previous response."""
    return ApiError(
        400,
        f"Previous response with id '{response_id}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def conversation_not_found(conversation_id: str) -> ApiError:
    """Return the answer to an unknown conversation."""
    return ApiError(404, f"Conversation with id '{conversation_id}' not found.")


def conversation_locked() -> ApiError:
    """Return the refusal of a second active response in one conversation."""
    return ApiError(
        400,
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        code="conversation_locked",
    )


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a decimal number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"
