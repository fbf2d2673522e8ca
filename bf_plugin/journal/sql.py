"""Statements, written as SQL for both databases and carried out by their drivers.

Parameters are named, as in `:run_id`. To build and execute a statement of SQLAlchemy Core takes 50 to 300 us of CPU,
this takes 5. A message is one of thousands a second, and a run takes some twenty statements more.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")

Values = Mapping[str, Any]
"""By the names of the parameters: text, numbers, bytes and None, which both drivers take as they are."""

_SQLITE = {
    " FOR UPDATE": "",  # a transaction that writes has the whole file
    "CLOCK()": "(julianday('now') - 2440587.5) * 86400.0",
}
_POSTGRES = {
    r"(?<!:):(\w+)": r"%(\1)s",
    r"CLOCK\(\)": "extract(epoch FROM clock_timestamp())",
}
"""What the databases say differently. `CLOCK()` is the database's own clock in POSIX seconds: those of hosts differ."""


class Statement:
    """One statement. All methods work in the connection's transaction and raise DBAPIError."""

    def __init__(self, text: str) -> None:
        self._texts = {"sqlite": text, "postgresql": text}
        for word, instead in _SQLITE.items():
            self._texts["sqlite"] = self._texts["sqlite"].replace(word, instead)
        for pattern, instead in _POSTGRES.items():
            self._texts["postgresql"] = re.sub(pattern, instead, self._texts["postgresql"])
        self._row: Callable[[Iterable[Any]], Any] | None = None

    def run(self, connection: Connection, **values: Any) -> int:
        """Carry it out; return how many rows it changed."""
        return int(self._run(connection, values, lambda cursor: cursor.rowcount))

    def run_each(self, connection: Connection, rows: Sequence[Values]) -> int:
        """Carry it out once for each of some rows, in one round trip; return how many rows it changed in all."""
        return int(self._run(connection, rows, lambda cursor: cursor.rowcount)) if rows else 0

    def rows(self, connection: Connection, **values: Any) -> list[Any]:
        """Return the rows it selects, as named tuples."""
        return self._run(connection, values, lambda cursor: list(map(self._named(cursor), cursor.fetchall())))

    def row(self, connection: Connection, **values: Any) -> Any:
        """Return the first row it selects, None without any."""
        return next(iter(self.rows(connection, **values)), None)

    def value(self, connection: Connection, **values: Any) -> Any:
        """Return the first column of the first row it selects, None without any."""
        row = self.row(connection, **values)
        return None if row is None else row[0]

    def _run(self, connection: Connection, values: Values | Sequence[Values], result: Callable[[Any], T]) -> T:
        text = self._texts[connection.dialect.name]
        try:
            with closing(connection.connection.cursor()) as cursor:
                if isinstance(values, Mapping):
                    cursor.execute(text, values)
                else:
                    cursor.executemany(text, values)
                return result(cursor)
        except connection.dialect.loaded_dbapi.Error as error:
            raise _as_sqlalchemy_says_it(connection, text, error) from None

    def _named(self, cursor: Any) -> Callable[[Iterable[Any]], Any]:
        if self._row is None:
            make: Any = namedtuple
            self._row = make("Row", [column[0] for column in cursor.description], rename=True)._make
        return self._row


def insertion(table: str, *columns: str) -> Statement:
    """Return the statement that inserts a row."""
    names, parameters = ", ".join(columns), ", ".join(f":{column}" for column in columns)
    return Statement(f"INSERT INTO {table} ({names}) VALUES ({parameters})")


def _as_sqlalchemy_says_it(connection: Connection, text: str, error: Any) -> Any:
    """Return a driver's error as a DBAPIError. A connection that is lost is given up."""
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, None)
    if lost:
        connection.invalidate(error)
    return DBAPIError.instance(
        text,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )
