"""Reading a request's JSON body, within its limit."""

from __future__ import annotations

from typing import Any

import falcon

from bf_plugin.bodies import parse_json, valid_action_name
from bf_plugin.errors import RequestError


def read_json(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the body's object. Raises RequestError 413, 415, or 400 that says where the JSON breaks."""
    kind = (req.content_type or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(415, "the body must be application/json")
    body = parse_json(read(req, limit))
    req.context.action_name = valid_action_name(body)
    return body


def read(req: falcon.Request, limit: int) -> bytes:
    """Return the body, at most `limit` bytes."""
    length = req.content_length
    if length is None:
        # Without a length a server marks the end itself (chunked requests) or there is no body.
        chunked = req.env.get("wsgi.input_terminated") or "chunked" in req.env.get("HTTP_TRANSFER_ENCODING", "")
        body = req.env["wsgi.input"].read(limit + 1) if chunked else b""
    elif length > limit:
        raise _too_large(limit)
    else:
        body = req.env["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            raise RequestError(400, "the body ended before its Content-Length")
    if len(body) > limit:
        raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"the body is larger than {limit} bytes")
