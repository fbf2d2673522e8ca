"""The HTTP application: routes, keys, recording, and errors in OpenAI's shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.conversations import ConversationsApi
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.exchange import Dropped, Exchange, Handler, after, before, json_response
from bf_plugin.testing.provider.faults import Faults
from bf_plugin.testing.provider.recording import RecordedRequest, digest, redacted
from bf_plugin.testing.provider.responses import ResponsesApi
from bf_plugin.testing.provider.state import Store

ROUTES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("POST", "/responses"): "create",
        ("GET", "/responses/{id}"): "retrieve",
        ("DELETE", "/responses/{id}"): "delete",
        ("POST", "/responses/{id}/cancel"): "cancel",
        ("GET", "/responses/{id}/input_items"): "input_items",
        ("POST", "/conversations"): "conversations.create",
        ("GET", "/conversations/{id}"): "conversations.retrieve",
        ("POST", "/conversations/{id}"): "conversations.update",
        ("DELETE", "/conversations/{id}"): "conversations.delete",
        ("POST", "/conversations/{id}/items"): "items.create",
        ("GET", "/conversations/{id}/items"): "items.list",
        ("GET", "/conversations/{id}/items/{item_id}"): "items.retrieve",
        ("DELETE", "/conversations/{id}/items/{item_id}"): "items.delete",
        ("GET", "/models"): "models",
    }
)
"""The operations, as faults name them in `on`; a GET with ?stream=true is `resume`."""

_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Puts the API behind what every request goes through."""

    def __init__(
        self,
        *,
        responses: ResponsesApi,
        conversations: ConversationsApi,
        faults: Faults,
        store: Store,
        keys: Collection[str] | None,
        models: Sequence[str] | None,
    ) -> None:
        self._faults = faults
        self._store = store
        self._keys = keys
        self._models = models or ("gpt-6-astra", "gpt-6-astra-mini")
        self._operations: dict[str, Handler] = {**responses.operations(), **conversations.operations()}
        self._operations["models"] = self._list_models
        self.requests: deque[RecordedRequest] = deque(maxlen=store.remember)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        application = web.Application(client_max_size=64 * 2**20)
        for (method, path), operation in ROUTES.items():
            application.router.add_route(method, "/v1" + path, self._endpoint(operation))
        application.router.add_route("*", "/{anything:.*}", self._endpoint(None))
        return application

    def _endpoint(self, operation: str | None) -> _Endpoint:
        async def endpoint(request: web.Request) -> web.StreamResponse:
            resumed = operation == "retrieve" and request.query.get("stream") == "true"
            try:
                return await self._answer(request, "resume" if resumed else operation)
            except ApiError as refused:
                return json_response(refused.body, refused.status, refused.headers)
            except Dropped:
                return web.Response()
            except ConnectionError:
                raise
            except Exception as failure:
                self._store.failures.append(failure)
                return json_response(errors.general(500).body, 500, {})

        return endpoint

    async def _answer(self, request: web.Request, operation: str | None) -> web.StreamResponse:
        body = _parse(await request.read())
        key = _key(request)
        self._record(request, operation, body, key)
        if operation is None:
            raise errors.invalid_url(request.method, request.path)
        await before(request, operation, self._faults)
        self._check_key(key)
        if body is _UNREADABLE:
            raise ApiError(400, "We could not parse the JSON body of your request.")
        if not isinstance(body or {}, dict):
            raise errors.wrong_type("body", "an object", body)
        exchange = Exchange(request=request, operation=operation, owner=digest(key or ""), body=body or {})
        answer = await self._operations[operation](exchange)
        if operation != "create":
            await after(exchange, self._faults)
        return answer

    def _record(self, request: web.Request, operation: str | None, body: Any, key: str | None) -> None:
        self.requests.append(
            RecordedRequest(
                method=request.method,
                path=request.path,
                operation=operation,
                query=dict(request.query),
                headers=redacted(request.headers),
                body=None if body is _UNREADABLE else body,
                key=key,
            )
        )
        self._store.changes.notify()

    def _check_key(self, key: str | None) -> None:
        if not key:
            raise errors.no_key()
        if self._keys is not None and key not in self._keys:
            raise errors.wrong_key(key)

    async def _list_models(self, exchange: Exchange) -> web.StreamResponse:
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in self._models]
        return exchange.json({"object": "list", "data": models})


_UNREADABLE = object()


def _parse(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _UNREADABLE


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
