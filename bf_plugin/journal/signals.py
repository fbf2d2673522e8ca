"""Wake-ups for the process that drives a run. The row that says what happened is what counts; these only hurry it.

On Postgres they travel with the transaction, as notifications. SQLite has none: who is to be woken is noted beside the
connection, and the writer touches their marks once it has committed.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select

from bf_plugin.journal.prepared import Prepared
from bf_plugin.journal.tables import runs

CHANNEL = "bf_signals"
"""Postgres: NOTIFY with the owner's name, nothing for all owners."""

_OWNER = Prepared(select(runs.c.owner).where(runs.c.id == bindparam("run_id")))
_NOTED = "bf_signals"


def signal_driver(connection: Connection, run_id: str) -> None:
    """Wake the owner of a run once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        owner = func.coalesce(runs.c.owner, "")
        connection.execute(select(func.pg_notify(CHANNEL, owner)).where(runs.c.id == run_id))
    elif (name := _OWNER.value(connection, {"run_id": run_id})) is not None:
        connection.info.setdefault(_NOTED, set()).add(name)


def signal_all(connection: Connection) -> None:
    """Wake all processes once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(CHANNEL, "")))


def signalled(connection: Connection) -> set[str]:
    """Return whom the transaction on a connection wants to wake, and forget them."""
    if connection.closed or connection.invalidated:
        return set()
    noted: set[str] = connection.info.pop(_NOTED, set())
    return noted
