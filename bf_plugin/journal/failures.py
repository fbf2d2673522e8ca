"""Failures of a database: which of them pass, what became of a commit without an answer, what to tell an operator.

SQLSTATE codes: postgresql.org/docs/current/errcodes-appendix.html. SQLite's errors have none: its own busy timeout has
waited for what passes there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from bf_plugin.errors import JournalError
from bf_plugin.journal.sql import Statement

OUTAGE = 30.0
"""Seconds for which writes, and reads, wait for a database that is away: a restart or a failover takes less."""

_PASSING = (
    "08",  # connection exceptions
    "25P03",  # idle in transaction: this process stood still, and the server ended its session
    "40",  # deadlock, serialization failure
    "53300",  # too many connections
    "55P03",  # lock not available: whoever holds it stands still
    "57P",  # admin shutdown, crash shutdown, cannot connect now
)

_TRANSACTION = Statement("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
_STATUS = Statement("SELECT pg_xact_status(CAST(:id AS xid8))")


def passes(error: BaseException) -> bool:
    """Tell whether the same statements may succeed in a moment."""
    cause: Any = error.orig if isinstance(error, DBAPIError) else None
    if not hasattr(cause, "sqlstate"):
        return False
    state: str | None = cause.sqlstate
    if state is None:  # libpq itself failed: the connection is lost, or there is none
        return isinstance(error, (OperationalError, InterfaceError))
    return state.startswith(_PASSING)


def pauses(seconds: float) -> Iterator[float]:
    """Yield how long to wait before each further try, over about `seconds`."""
    end, pause = time.monotonic() + seconds, 0.05
    while time.monotonic() < end:
        yield pause
        pause = min(2 * pause, 1.0)


def transaction_id(connection: Connection) -> str | None:
    """Return the id of the current transaction: None on SQLite, and for one that has written nothing."""
    if connection.dialect.name != "postgresql":
        return None
    found: str | None = _TRANSACTION.value(connection)
    return found


def is_committed(connection: Connection, transaction: str) -> bool | None:
    """Tell what became of a transaction, None while it is in progress."""
    status = _STATUS.value(connection, id=transaction)
    return None if status == "in progress" else status == "committed"


def explain(error: BaseException) -> BaseException:
    """Return a database error as a JournalError that says what to do; it quotes no statement and no value."""
    if not isinstance(error, DBAPIError):
        return error if isinstance(error, JournalError) else JournalError(f"the journal failed: {type(error).__name__}")
    reason = next(iter(str(error.orig).splitlines()), type(error).__name__)
    advice = "check that the database can be reached and written"
    for word, hint in _ADVICE.items():
        if word in reason:
            advice = hint
    return JournalError(f"the journal cannot be written: {reason.strip()}; {advice}")


_ADVICE = {
    "password authentication": "correct user and password in BF_DATABASE_URL",
    "does not exist": "create it, or correct BF_DATABASE_URL",
    "Connection refused": "see that the server runs, and that host and port in BF_DATABASE_URL are right",
    "resolve host": "correct the host in BF_DATABASE_URL",
    "too many clients": "raise max_connections of the server, or run fewer processes",
    "permission denied": "grant its user the right to create and write tables",
    "read-only": "connect to the primary server, which can be written",
    "disk is full": "free space on the disk that holds it",
    "locked": "another program keeps a write transaction open on it; end that program",
    "readonly": "make the file and its folder writable for this user, or set BF_DATABASE_URL",
    "disk I/O": "its disk is failing or full",
    "not a database": "another program's file lies there: correct BF_DATABASE_URL",
    "malformed": "restore it from a backup, or move it away to start afresh",
}
