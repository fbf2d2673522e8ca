"""Statements of the hot path: written with SQLAlchemy, compiled once for each kind of database, executed by its driver.

Building and executing a Core statement takes 50 to 300 us of CPU, this 5: a message is one of thousands a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import UpdateBase


class Prepared:
    """An insert, update or delete with named bind parameters, for values that need no conversion."""

    def __init__(self, statement: UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, tuple[str, ...] | None]] = {}

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Execute it in the connection's transaction; return how many rows it changed. Raises DBAPIError."""
        dialect = connection.dialect
        if dialect.name not in self._compiled:
            compiled = self._statement.compile(dialect=dialect)
            order = tuple(compiled.positiontup) if compiled.positiontup is not None else None
            self._compiled[dialect.name] = str(compiled), order
        text, order = self._compiled[dialect.name]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(text, values if order is None else [values[name] for name in order])
            return cursor.rowcount
        except dialect.loaded_dbapi.Error as error:
            raise _explained(connection, text, error, cursor) from None
        finally:
            cursor.close()


def _explained(connection: Connection, text: str, error: Any, cursor: Any) -> Any:
    """Return a driver's error as SQLAlchemy would raise it, the connection given up where it is lost."""
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor)
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
