"""What resources read from a request: its JSON body, its app key, its ids and numbers."""

from __future__ import annotations

from typing import Any

import falcon

from bf_plugin.bodies import parse_json, valid_action_name
from bf_plugin.errors import RequestError, invalid
from bf_plugin.gateway.apps import App, Apps


def read_json(req: falcon.Request, limit: int) -> dict[str, Any]:
    """Return the body's object. Raises RequestError 413, 415, or 400 that says where the JSON breaks."""
    kind = (req.content_type or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(415, "the body must be application/json")
    body = parse_json(_read(req, limit))
    req.context.action_name = valid_action_name(body)
    return body


def app_key(req: falcon.Request, sent: str | None) -> str | None:
    """Return the app key in the body (`sent`), else the one in `X-Api-Key`."""
    return sent or req.get_header("X-Api-Key")


def authenticate(apps: Apps, req: falcon.Request, sent: str | None = None) -> App:
    """Return the app of the key that came with the request. Raises RequestError 401."""
    key = app_key(req, sent)
    if not key:
        raise RequestError(401, "apiKey is required", errors={"apiKey": "is required"})
    return apps.authenticate(key, req.env)


def thread_id_of(req: falcon.Request) -> str:
    """Return the thread id that came with the request. Raises RequestError 400 when there is none."""
    thread_id = req.get_header("X-Thread-Id") or req.get_param("threadId")
    if not thread_id:
        raise invalid("threadId", "is required, as the header X-Thread-Id or in the query")
    return thread_id


def number(text: str | None, name: str, *, default: int, least: int = 0, most: int) -> int:
    """Return the integer in a parameter or header. Raises RequestError 400 for anything else, or one out of range."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise invalid(name, f"must be an integer from {least} to {most}")
    return int(text)


def _read(req: falcon.Request, limit: int) -> bytes:
    length, stream = req.content_length, req.env["wsgi.input"]
    if length is None:
        # Without a length, either the server marks the end itself (a chunked request) or there is no body.
        chunked = req.env.get("wsgi.input_terminated") or "chunked" in req.env.get("HTTP_TRANSFER_ENCODING", "")
        length, body = 0, stream.read(limit + 1) if chunked else b""
    else:
        body = stream.read(length) if 0 < length <= limit else b""
    if max(length, len(body)) > limit:
        raise RequestError(413, f"the body is larger than {limit} bytes")
    if len(body) < length:
        raise RequestError(400, "the body ended before its Content-Length")
    return bytes(body)
