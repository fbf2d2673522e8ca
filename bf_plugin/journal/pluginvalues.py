"""Rows of what plugins keep: values with an expiry, and numbers that are added to."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bf_plugin.context import increased
from bf_plugin.journal.base import Base
from bf_plugin.journal.tables import plugin_values


class PluginValues(Base):
    """Values by plugin and key. Times are POSIX seconds; an expired row counts as none, until it is purged."""

    def get(self, plugin: str, key: str, now: float) -> tuple[Any] | None:
        """Return a value, in a tuple, since None is one too."""
        live = or_(plugin_values.c.expires_at.is_(None), plugin_values.c.expires_at > now)
        query = select(plugin_values.c.value_sealed).where(plugin_values.c.key == digest(plugin, key), live)
        row = self.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else (self.vault.open(row.value_sealed),)

    def put(self, plugin: str, key: str, value: Any, expires_at: float | None) -> Future[None]:
        """Keep a value. Raises TypeError for one that JSON cannot say."""
        row = {"value_sealed": self.vault.seal(value), "expires_at": expires_at}
        name = digest(plugin, key)
        return self.write(lambda connection: _upsert(connection, name, plugin, row, row), name)

    def increment(self, plugin: str, key: str, by: float, now: float, expires_at: float | None) -> Future[float]:
        """Add to a number. It is decrypted, increased and encrypted while its row is locked, so nothing is in clear."""
        name = digest(plugin, key)

        def job(connection: Connection) -> float:
            # The first statement makes the row or changes nothing of it; on Postgres it locks it either way.
            _upsert(connection, name, plugin, {"expires_at": expires_at}, {"plugin": plugin})
            mine = plugin_values.c.key == name
            row = connection.execute(select(plugin_values).where(mine)).one()
            stands = row.value_sealed is not None and (row.expires_at is None or row.expires_at > now)
            total = increased(self.vault.open(row.value_sealed) if stands else 0, by)
            change = {"value_sealed": self.vault.seal(total), "expires_at": row.expires_at if stands else expires_at}
            connection.execute(update(plugin_values).where(mine).values(**change))
            return total

        return self.write(job, name)

    def delete(self, plugin: str, key: str) -> Future[None]:
        """Forget a value."""
        name = digest(plugin, key)

        def job(connection: Connection) -> None:
            connection.execute(delete(plugin_values).where(plugin_values.c.key == name))

        return self.write(job, name)


def digest(plugin: str, key: str) -> str:
    """Return under which name a plugin's key is on record: keys may hold names of people."""
    return hashlib.sha256(f"bf_plugin store\0{plugin}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()


def _upsert(connection: Connection, name: str, plugin: str, row: dict[str, Any], change: dict[str, Any]) -> None:
    """Insert a row, or `change` the one that is there."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    inserting = dialect.insert(plugin_values).values(key=name, plugin=plugin, **row)
    connection.execute(inserting.on_conflict_do_update(index_elements=["key"], set_=change))
