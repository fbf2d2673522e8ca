"""The path we share with the host, `/llm/tool-response`: which call a request answers, without using up its body."""

from __future__ import annotations

import io
from typing import Any

import msgspec


def answered_call(environ: dict[str, Any], limit: int) -> str | None:
    """Return the `toolCallId` in a request of at most `limit` bytes, None if there is none.

    The host, or our own app, can still read the whole body afterwards.
    """
    if environ.get("REQUEST_METHOD") != "POST":
        return None
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return None
    stream, chunked = environ["wsgi.input"], False
    if not 0 < length <= limit:
        # A chunked body has no length: waitress finds it out, gunicorn marks the end instead.
        length, chunked = limit, not length and bool(environ.get("wsgi.input_terminated"))
        if not chunked:
            return None
    body = stream.read(length)
    environ["wsgi.input"] = io.BufferedReader(_Replayed(body, stream)) if chunked else io.BytesIO(body)
    return _call_id(body)


def _call_id(body: bytes) -> str | None:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    call_id = answer.get("toolCallId") if isinstance(answer, dict) else None
    return call_id if isinstance(call_id, str) else None


class _Replayed(io.RawIOBase):
    """A request's input with what was read of it put back in front."""

    def __init__(self, body: bytes, rest: Any) -> None:
        self._body = io.BytesIO(body)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._body.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
