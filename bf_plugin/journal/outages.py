"""Which failures of a database pass, and what became of a transaction whose commit was not answered.

SQLSTATE codes: postgresql.org/docs/current/errcodes-appendix.html. SQLite's errors have none: there nothing passes that
its own busy timeout has not waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

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
    found: str | None = connection.execute(text("SELECT pg_current_xact_id_if_assigned()::text")).scalar()
    return found


def is_committed(connection: Connection, transaction: str) -> bool | None:
    """Tell what became of a transaction, None while it is in progress."""
    query = text("SELECT pg_xact_status(CAST(:id AS xid8))")
    status = connection.execute(query, {"id": transaction}).scalar()
    return None if status == "in progress" else status == "committed"
