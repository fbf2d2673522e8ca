"""A plugin's store without a database, for fast tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from bf_plugin.journal.pluginvalues import increased
from bf_plugin.plugins.context import checked_key, expiry, refuse_on_loop
from bf_plugin.runtime.text import well_formed_tree


class MemoryStore:
    """Behaves as the store in the journal does, for as long as it lives; `now` is its clock, in seconds."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._rows: dict[str, tuple[bytes, float | None]] = {}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, `default` where there is none or it has expired."""
        refuse_on_loop("store")
        row = self._row(checked_key(key))
        return default if row is None else msgspec.msgpack.decode(row[0])

    def put(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, in place of what the key had."""
        refuse_on_loop("store")
        self._rows[checked_key(key)] = _packed(value), expiry(ttl, self._now())

    def increment(self, key: str, by: float = 1, ttl: float | None = None) -> float:
        """Add to a number, 0 where there is none, and return the sum; `ttl` counts from the first increment."""
        refuse_on_loop("store")
        with self._lock:
            row = self._row(checked_key(key))
            value, expires_at = (
                (0, expiry(ttl, self._now())) if row is None else (msgspec.msgpack.decode(row[0]), row[1])
            )
            total = increased(value, by)
            self._rows[key] = _packed(total), expires_at
        return total

    def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        refuse_on_loop("store")
        self._rows.pop(checked_key(key), None)

    def _row(self, key: str) -> tuple[bytes, float | None] | None:
        row = self._rows.get(key)
        return None if row is None or (row[1] is not None and row[1] <= self._now()) else row


def _packed(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (UnicodeEncodeError, OverflowError):  # as in the journal
        return msgspec.msgpack.encode(well_formed_tree(msgspec.to_builtins(value)))
