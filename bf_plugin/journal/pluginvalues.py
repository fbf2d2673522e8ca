"""Rows of what plugins keep: values with an expiry, and numbers that are added to."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection

from bf_plugin.journal.base import Base
from bf_plugin.journal.sql import Statement

_FIND = Statement("SELECT value_sealed, expires_at FROM bf_plugin_values WHERE key = :key")
_PUT = Statement(
    """
    INSERT INTO bf_plugin_values (key, plugin, value_sealed, expires_at)
    VALUES (:key, :plugin, :value, :expires_at)
    ON CONFLICT (key) DO UPDATE SET value_sealed = excluded.value_sealed, expires_at = excluded.expires_at
    """
)
# Makes a row, or changes nothing of the one that is there; on Postgres it is locked either way.
_HOLD = Statement(
    """
    INSERT INTO bf_plugin_values (key, plugin, expires_at) VALUES (:key, :plugin, :expires_at)
    ON CONFLICT (key) DO UPDATE SET plugin = excluded.plugin
    """
)
_CHANGE = Statement("UPDATE bf_plugin_values SET value_sealed = :value, expires_at = :expires_at WHERE key = :key")
_DELETE = Statement("DELETE FROM bf_plugin_values WHERE key = :key")


class PluginValues(Base):
    """Values by plugin and key. Times are POSIX seconds; an expired row counts as none, until it is purged."""

    def get(self, plugin: str, key: str, now: float) -> tuple[Any] | None:
        """Return a value, in a tuple, since None is one too."""
        row = self.read(lambda connection: _FIND.row(connection, key=digest(plugin, key)))
        return (self.vault.open(row.value_sealed),) if row and _stands(row, now) else None

    def put(self, plugin: str, key: str, value: Any, expires_at: float | None) -> Future[int]:
        """Keep a value. Raises TypeError for one that JSON cannot say."""
        name = digest(plugin, key)
        row = {"key": name, "plugin": plugin, "value": self.vault.seal(value), "expires_at": expires_at}
        return self.write(lambda connection: _PUT.run(connection, **row), name)

    def increment(self, plugin: str, key: str, by: float, now: float, expires_at: float | None) -> Future[float]:
        """Add to a number. It is decrypted, increased and encrypted while its row is locked, so nothing is in clear."""
        name = digest(plugin, key)

        def job(connection: Connection) -> float:
            _HOLD.run(connection, key=name, plugin=plugin, expires_at=expires_at)
            found = _FIND.row(connection, key=name)
            stands = found.value_sealed is not None and _stands(found, now)
            total = increased(self.vault.open(found.value_sealed) if stands else 0, by)
            expiry = found.expires_at if stands else expires_at
            _CHANGE.run(connection, key=name, value=self.vault.seal(total), expires_at=expiry)
            return total

        return self.write(job, name)

    def delete(self, plugin: str, key: str) -> Future[int]:
        """Forget a value."""
        name = digest(plugin, key)
        return self.write(lambda connection: _DELETE.run(connection, key=name), name)


def digest(plugin: str, key: str) -> str:
    """Return under which name a plugin's key is on record: keys may hold names of people."""
    return hashlib.sha256(f"bf_plugin store\0{plugin}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def _stands(row: Any, now: float) -> bool:
    return row.expires_at is None or bool(row.expires_at > now)


def increased(value: Any, by: float) -> float:
    """Return a number `by` more. Raises TypeError where there is no number to increase, or to increase it by."""
    if not _is_number(by):
        raise TypeError(f"by is a number, not {by!r}")
    if not _is_number(value):
        raise TypeError(f"only a number can be incremented, and the key holds {type(value).__name__}")
    total: float = value + by
    return total


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
