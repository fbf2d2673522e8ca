"""Looking over a database without changing it, whoever works on it meanwhile: for `bf-plugin doctor`."""

from __future__ import annotations

import time
from types import TracebackType

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.journal.failures import explain
from bf_plugin.journal.fence import CHANNEL
from bf_plugin.journal.migrations import advance, version_of
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.store import Database
from bf_plugin.journal.vault import Vault

TIMEOUT = 5.0
"""Seconds to wait for a server, for a lock, or for a signal."""

_OLDEST_SERVER = (13,)

_SEALED = [
    Statement(f"SELECT {column} FROM {table} ORDER BY {order} LIMIT 1")
    for table, column, by in (("bf_runs", "spec_sealed", "created_at"), ("bf_items", "item_sealed", "id"))
    for order in (by, f"{by} DESC")
]
_NOTHING = Statement("SELECT 1")
_NOTIFY = Statement("SELECT pg_notify(:channel, :name)")


class Survey:
    """One transaction on a database, undone at the end. Every method raises JournalError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._engine = database.visiting_engine(TIMEOUT)
        self._connection: Connection | None = None

    def __enter__(self) -> Survey:
        try:
            self._connection = self._engine.connect()
            self._connection.begin()
        except DBAPIError as error:
            self._close()
            raise explain(error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()
        if isinstance(error, DBAPIError):
            raise explain(error) from None

    def prepare(self) -> int | None:
        """Do what opening a journal does, its tables included; return the version they had, None if there were none.

        Raises ConfigurationError for tables of another version, and for a server that is too old.
        """
        version = self._open.dialect.server_version_info
        if self._open.dialect.name == "postgresql" and version is not None and version < _OLDEST_SERVER:
            raise ConfigurationError(f"BF_DATABASE_URL: the server is Postgres {version[0]}, 13 or later is needed")
        found = version_of(self._open)
        while not advance(self._open, create=True):
            pass
        return found

    def open_sealed(self, vault: Vault) -> int:
        """Open the oldest and the newest of what is stored; return how many that were. Raises Unreadable."""
        tokens = [token for statement in _SEALED for (token,) in statement.rows(self._open)]
        for token in tokens:
            vault.open(token)
        return len(tokens)

    def round_trip(self) -> float:
        """Return the seconds a question and its answer take."""
        begun = time.monotonic()
        _NOTHING.rows(self._open)
        return time.monotonic() - begun

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise JournalError("the survey has not begun, or is over")
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # rolls back
            self._connection = None
        self._engine.dispose()


def hears_signals(server: PostgresServer, name: str) -> bool:
    """Tell whether a signal sent on one connection arrives on another. `name` must be no process's."""
    listener, engine = server.listen(), server.visiting_engine(TIMEOUT)
    try:
        listener.wait(TIMEOUT)
        with engine.begin() as connection:
            _NOTIFY.rows(connection, channel=CHANNEL, name=name)
        end = time.monotonic() + TIMEOUT
        while (left := end - time.monotonic()) > 0:
            if name in listener.wait(left):
                return True
    except DBAPIError as error:
        raise explain(error) from None
    finally:
        listener.close()
        engine.dispose()
    return False
