"""One request on its way through the API, and what can go wrong around its handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.encoding import encode
from bf_plugin.testing.provider.errors import ApiError, PlainError
from bf_plugin.testing.provider.faults import Fault, Faults
from bf_plugin.testing.provider.state import new_id

_MISSING = (
    ("no_conversations", ("conversations", "items")),
    ("no_retrieve", ("retrieve", "resume")),
    ("no_cancel", ("cancel",)),
)


class Dropped(Exception):
    """The client's socket is closed; there is nothing to answer to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that passed the doorkeeper. `owner` stands for its key."""

    request: web.Request
    operation: str
    owner: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=lambda: {"x-request-id": new_id("req")})

    def parameter(self, name: str) -> str:
        """Return a part of the path."""
        return self.request.match_info[name]

    def json(self, body: Any, status: int = 200) -> web.Response:
        """Return an answer."""
        return json_response(body, status, self.headers)


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


def json_response(body: Any, status: int, headers: dict[str, str]) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=encode(body), status=status, content_type="application/json", headers=headers)


def drop(request: web.Request) -> None:
    """Close a client's socket; what was written before still arrives."""
    if request.transport is not None:
        request.transport.close()


async def before(request: web.Request, operation: str, faults: Faults) -> None:
    """Apply the faults that replace an answer; raises ApiError or Dropped."""
    if fault := faults.take("slow_accept", on=operation):
        if fault["gate"] is not None:
            await fault["gate"].passed()
        await asyncio.sleep(fault["seconds"])
    await _lose(request, operation, faults, late=False)
    if fault := faults.take("status", on=operation):
        raise errors.general(
            fault["status"], code=fault["code"], message=fault["message"], retry_after=fault["retry_after"]
        )
    if fault := faults.take("detail_error", on=operation):
        raise PlainError(fault["status"], {"detail": fault["detail"]})
    _check_missing(request, operation, faults)


async def after(exchange: Exchange, faults: Faults) -> None:
    """Apply the faults that lose the answer to a request that took effect."""
    await _lose(exchange.request, exchange.operation, faults, late=True)


async def _lose(request: web.Request, operation: str, faults: Faults, *, late: bool) -> None:
    def applies(fault: Fault) -> bool:
        return bool(fault["late"]) is late

    if faults.take("drop", on=operation, when=applies):
        drop(request)
        raise Dropped
    if faults.take("hang", on=operation, when=applies):
        await asyncio.Event().wait()


def _check_missing(request: web.Request, operation: str, faults: Faults) -> None:
    for name, operations in _MISSING:
        if operation.partition(".")[0] in operations and (fault := faults.take(name)):
            if fault["status"] == 404:
                raise errors.invalid_url(request.method, request.path)
            raise ApiError(fault["status"], f"Method {request.method} is not allowed here.")
