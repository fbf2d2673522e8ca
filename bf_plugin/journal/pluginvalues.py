"""Rows of what plugins keep: values with an expiry, and numbers that are added to."""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bf_plugin.journal.base import Base
from bf_plugin.journal.tables import plugin_values

# Built once: a hook may ask for every run, and SQLAlchemy takes longer to build a statement than to carry it out.
_MINE = plugin_values.c.key == bindparam("name")
_FIND = select(plugin_values.c.value_sealed, plugin_values.c.expires_at).where(_MINE)
_CHANGE = update(plugin_values).where(_MINE).values(value_sealed=bindparam("value"), expires_at=bindparam("expiry"))
_DELETE = delete(plugin_values).where(_MINE)
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert(plugin_values), "postgresql": postgresql.insert(plugin_values)}
_PUT = {
    dialect: insert.on_conflict_do_update(
        index_elements=["key"],
        set_={name: insert.excluded[name] for name in ("value_sealed", "expires_at")},
    )
    for dialect, insert in _INSERT.items()
}
_LOCK = {
    dialect: insert.on_conflict_do_update(index_elements=["key"], set_={"plugin": insert.excluded.plugin})
    for dialect, insert in _INSERT.items()
}
"""Makes a row, or changes nothing of the one that is there; on Postgres it is locked either way."""


class PluginValues(Base):
    """Values by plugin and key. Times are POSIX seconds; an expired row counts as none, until it is purged."""

    def get(self, plugin: str, key: str, now: float) -> tuple[Any] | None:
        """Return a value, in a tuple, since None is one too."""
        name = {"name": digest(plugin, key)}
        row = self.read(lambda connection: connection.execute(_FIND, name).one_or_none())
        return (self.vault.open(row.value_sealed),) if row and _stands(row, now) else None

    def put(self, plugin: str, key: str, value: Any, expires_at: float | None) -> Future[None]:
        """Keep a value. Raises TypeError for one that JSON cannot say."""
        name = digest(plugin, key)
        row = {"key": name, "plugin": plugin, "value_sealed": self.vault.seal(value), "expires_at": expires_at}

        def job(connection: Connection) -> None:
            connection.execute(_PUT[connection.dialect.name], row)

        return self.write(job, name)

    def increment(self, plugin: str, key: str, by: float, now: float, expires_at: float | None) -> Future[float]:
        """Add to a number. It is decrypted, increased and encrypted while its row is locked, so nothing is in clear."""
        name = digest(plugin, key)

        def job(connection: Connection) -> float:
            row = {"key": name, "plugin": plugin, "value_sealed": None, "expires_at": expires_at}
            connection.execute(_LOCK[connection.dialect.name], row)
            found = connection.execute(_FIND, {"name": name}).one()
            stands = found.value_sealed is not None and _stands(found, now)
            total = increased(self.vault.open(found.value_sealed) if stands else 0, by)
            expiry = found.expires_at if stands else expires_at
            connection.execute(_CHANGE, {"name": name, "value": self.vault.seal(total), "expiry": expiry})
            return total

        return self.write(job, name)

    def delete(self, plugin: str, key: str) -> Future[None]:
        """Forget a value."""
        name = digest(plugin, key)

        def job(connection: Connection) -> None:
            connection.execute(_DELETE, {"name": name})

        return self.write(job, name)


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
