"""Answers that need neither Falcon nor the service: refusals, also in place of a host app that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bf_plugin.errors import RequestError, error_body
from bf_plugin.runtime.logs import request_id

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def refuse(
    environ: Environ, start_response: StartResponse, code: int, message: str, *, retry_after: float | None = None
) -> list[bytes]:
    """Answer with an error in our form, as WSGI has it; `retry_after` is in seconds."""
    name = request_id(environ.get("HTTP_X_REQUEST_ID"))
    error = RequestError(code, message)
    body = msgspec.json.encode(error_body(error, request_id=name, action_name=None))
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("X-Request-ID", name)]
    if retry_after is not None:
        headers.append(("Retry-After", str(int(retry_after))))
    start_response(f"{code} {error.name}", headers)
    return [body]


def nothing_else(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Stand in for the host app where there is none: everything that is not ours is 404."""
    return refuse(environ, start_response, 404, "there is no such resource")
