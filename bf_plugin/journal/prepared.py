"""Statements of a run's life: written with SQLAlchemy, compiled once for each kind of database, executed by its driver.

Building and executing a Core statement takes 50 to 300 us of CPU, this 5. A message is one of thousands a second, and a
run takes some twenty statements more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, bindparam, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ClauseElement

T = TypeVar("T")
Values = Mapping[str, Any]
"""By the names of the bind parameters; values that need no conversion on their way to the database."""


class Prepared:
    """A statement with named bind parameters. All methods work in the connection's transaction and raise DBAPIError."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, tuple[str, ...] | None, dict[str, Any]]] = {}

    def execute(self, connection: Connection, values: Values) -> int:
        """Execute it; return how many rows it changed."""
        changed: int = self._run(connection, values, lambda cursor: cursor.rowcount)
        return changed

    def execute_each(self, connection: Connection, rows: Sequence[Values]) -> int:
        """Execute it once for each of some rows; return how many rows it changed in all."""
        if not rows:
            return 0
        changed: int = self._run(connection, rows, lambda cursor: cursor.rowcount)
        return changed

    def rows(self, connection: Connection, values: Values) -> list[tuple[Any, ...]]:
        """Return the rows it selects."""
        return self._run(connection, values, lambda cursor: cursor.fetchall())

    def row(self, connection: Connection, values: Values) -> tuple[Any, ...] | None:
        """Return the first row it selects, None without any."""
        found: tuple[Any, ...] | None = self._run(connection, values, lambda cursor: cursor.fetchone())
        return found

    def value(self, connection: Connection, values: Values) -> Any:
        """Return the first column of the first row it selects, None without any."""
        row = self.row(connection, values)
        return None if row is None else row[0]

    def _run(self, connection: Connection, values: Values | Sequence[Values], result: Callable[[Any], T]) -> T:
        dialect = connection.dialect
        text, order, constants = self._compiled.get(dialect.name) or self._compile(dialect)

        def bound(row: Values) -> Any:
            row = {**constants, **row} if constants else row
            return row if order is None else [row[name] for name in order]

        try:
            with closing(connection.connection.cursor()) as cursor:
                if isinstance(values, Mapping):
                    cursor.execute(text, bound(values))
                else:
                    cursor.executemany(text, [bound(row) for row in values])
                return result(cursor)
        except dialect.loaded_dbapi.Error as error:
            raise _explained(connection, text, error) from None

    def _compile(self, dialect: Any) -> tuple[str, tuple[str, ...] | None, dict[str, Any]]:
        compiled: Any = self._statement.compile(dialect=dialect)
        order = None if compiled.positiontup is None else tuple(compiled.positiontup)
        constants = {name: value for name, value in compiled.params.items() if value is not None}
        self._compiled[dialect.name] = str(compiled), order, constants
        return self._compiled[dialect.name]


def insert_of(table: Table, *columns: str) -> Prepared:
    """Return the insertion of a row, by the names of its columns."""
    return Prepared(insert(table).values({name: bindparam(name) for name in columns}))


def _explained(connection: Connection, text: str, error: Any) -> Any:
    """Return a driver's error as SQLAlchemy would raise it, the connection given up where it is lost."""
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
