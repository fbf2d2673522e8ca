"""Wake-ups for the process that drives a run. The row that says what happened is what counts; these only hurry it."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from bf_plugin.journal.tables import runs

CHANNEL = "bf_signals"
"""Postgres: NOTIFY with the owner's name, nothing for all owners. SQLite needs none: siblings see the file change."""


def signal_driver(connection: Connection, run_id: str) -> None:
    """Wake the owner of a run once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        owner = func.coalesce(runs.c.owner, "")
        connection.execute(select(func.pg_notify(CHANNEL, owner)).where(runs.c.id == run_id))


def signal_all(connection: Connection) -> None:
    """Wake all processes once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(CHANNEL, "")))
