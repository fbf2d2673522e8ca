"""The Conversations API."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.exchange import Exchange, Handler
from bf_plugin.testing.provider.faults import Faults
from bf_plugin.testing.provider.items import normalize
from bf_plugin.testing.provider.pages import page
from bf_plugin.testing.provider.state import ConversationRecord, JsonObject, Store
from bf_plugin.testing.provider.typechecks import check_types
from bf_plugin.testing.provider.validation import check_metadata

MAX_ITEMS = 20
"""How many items one request may bring."""


class ConversationsApi:
    """Conversations and their items."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def operations(self) -> dict[str, Handler]:
        """Return the handlers by operation."""
        return {
            "conversations.create": self._create,
            "conversations.retrieve": self._retrieve,
            "conversations.update": self._update,
            "conversations.delete": self._delete,
            "items.create": self._add_items,
            "items.list": self._list_items,
            "items.retrieve": self._retrieve_item,
            "items.delete": self._delete_item,
        }

    async def _create(self, exchange: Exchange) -> web.StreamResponse:
        body = exchange.body
        check_types(body, {"items": "array", "metadata": "object"})
        check_metadata(body.get("metadata"))
        items = _checked_items(body.get("items") or [])
        record = ConversationRecord(owner=exchange.owner, metadata=body.get("metadata") or {}, items=items)
        self._store.conversations[record.id] = record
        return exchange.json(record.shown())

    async def _retrieve(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.json(self._found(exchange).shown())

    async def _update(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        check_types(exchange.body, {"metadata": "object"})
        if "metadata" not in exchange.body:
            raise errors.missing("metadata")
        check_metadata(exchange.body["metadata"])
        record.metadata = exchange.body["metadata"] or {}
        return exchange.json(record.shown())

    async def _delete(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        del self._store.conversations[record.id]
        return exchange.json({"id": record.id, "object": "conversation.deleted", "deleted": True})

    async def _add_items(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        check_types(exchange.body, {"items": "array"})
        if "items" not in exchange.body:
            raise errors.missing("items")
        items = _checked_items(exchange.body["items"])
        record.add(items)
        ends = {"first_id": items[0]["id"] if items else "", "last_id": items[-1]["id"] if items else ""}
        return exchange.json({"object": "list", "data": items, **ends, "has_more": False})

    async def _list_items(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.json(page(self._found(exchange).items, exchange.request.query, self._faults))

    async def _retrieve_item(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.json(self._found_item(exchange)[1])

    async def _delete_item(self, exchange: Exchange) -> web.StreamResponse:
        record, item = self._found_item(exchange)
        record.items.remove(item)
        return exchange.json(record.shown())

    def _found(self, exchange: Exchange) -> ConversationRecord:
        record = self._store.conversation(exchange.parameter("id"), exchange.owner)
        if record is None:
            raise errors.conversation_not_found(exchange.parameter("id"))
        return record

    def _found_item(self, exchange: Exchange) -> tuple[ConversationRecord, JsonObject]:
        record, wanted = self._found(exchange), exchange.parameter("item_id")
        for item in record.items:
            if item["id"] == wanted:
                return record, item
        raise ApiError(404, f"Item with id '{wanted}' not found in conversation '{record.id}'.")


def _checked_items(items: list[Any]) -> list[JsonObject]:
    if len(items) > MAX_ITEMS:
        raise errors.too_long("items", MAX_ITEMS, len(items))
    return normalize(items, "items")
