"""Reading what callers post, as strictly as the documented shape allows, and Feathers' form of errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bf_plugin.errors import RequestError, invalid

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def parse_body(environ: WSGIEnvironment) -> tuple[bytes, dict[str, Any]]:
    """Return the request's bytes and the JSON object they are."""
    raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise RequestError(400, "the body is not JSON") from error
    if not isinstance(body, dict):
        raise RequestError(400, "the body is not an object")
    return raw, body


def parse_channels(body: dict[str, Any]) -> list[str]:
    """Return the channels of a message; a single string is a list of one."""
    channels = body.get("channels")
    if isinstance(channels, str):
        return [channels]
    if not isinstance(channels, list) or not channels or not all(isinstance(one, str) for one in channels):
        raise invalid("channels", "must be a list of strings")
    return channels


def parse_actions(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the actions of a message."""
    message = body.get("message")
    actions = message.get("actions") if isinstance(message, dict) else None
    if not isinstance(actions, list) or not actions:
        raise invalid("message.actions", "must be a list of actions")
    for number, action in enumerate(actions):
        field = f"message.actions.{number}"
        if not isinstance(action, dict) or not isinstance(action.get("action"), str):
            raise invalid(field, "must be an object with a string action")
        if action["action"] == "namedAction" and not isinstance(action.get("name"), str):
            raise invalid(f"{field}.name", "must be a string")
        if not isinstance(action.get("options", {}), dict):
            raise invalid(f"{field}.options", "must be an object")
    return actions


def error_body(error: RequestError) -> bytes:
    """Return an error as Feathers services write it."""
    class_name = "".join(f"-{c.lower()}" if c.isupper() else c for c in error.name).lstrip("-")
    body = {"name": error.name, "message": error.message, "code": error.code, "className": class_name}
    return json.dumps({**body, "errors": error.errors}).encode()
