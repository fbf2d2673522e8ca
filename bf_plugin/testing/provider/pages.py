"""Lists in pages, as `limit`, `after` and `order` ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.faults import Faults


def page(items: Sequence[Mapping[str, Any]], query: Mapping[str, str], faults: Faults) -> dict[str, Any]:
    """Return one page; newest first unless `order=asc`."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise errors.wrong_value("order", order, ("asc", "desc"))
    ordered = list(items) if order == "asc" else list(reversed(items))
    limit = _limit(query.get("limit", "20"))
    endless = bool(items) and faults.take("endless_pages") is not None
    rest = _after(ordered, query.get("after"))
    if endless and not rest:
        rest = ordered
    shown = rest[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else "",
        "last_id": shown[-1]["id"] if shown else "",
        "has_more": endless or len(rest) > limit,
    }


def _limit(value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 100:
        message = f"Invalid 'limit': expected an integer from 1 to 100, but got '{value}' instead."
        raise ApiError(400, message, code="invalid_value", param="limit")
    return int(value)


def _after(ordered: list[Mapping[str, Any]], cursor: str | None) -> list[Mapping[str, Any]]:
    if not cursor:
        return ordered
    places = [place for place, item in enumerate(ordered) if item["id"] == cursor]
    if not places:
        raise ApiError(404, f"Item with id '{cursor}' not found.", param="after")
    return ordered[places[0] + 1 :]
