"""The tables on a database: made once, however many processes boot together, and brought to this release's version.

A change of the tables in `tables.py` is a new step at the end of `STEPS`. A step is SQL or a function, for both kinds
of database, and is never changed once it was released. It must leave what the release before it wrote usable, and
that release's processes working, since they may go on for a while beside the new ones. Processes that start together
take turns: each step commits with its number, so a process that dies in a step leaves the version before.

SQLite changes columns by building the table anew (sqlite.org/lang_altertable.html, section 7). Its foreign keys are
off in a step, so that dropping the old table does not delete what refers to it, and are checked afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine, inspect

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.journal.sql import Statement, insertion
from bf_plugin.journal.tables import metadata, schema

Step = str | Callable[[Connection], None]
"""One change of the tables: a statement that both databases understand, or a function for anything else."""

STEPS: Sequence[Step] = ()
"""The first leads from version 1 to version 2, and so on. tests/data/journal holds a database of each version."""

VERSION = 1 + len(STEPS)
"""Of the tables in `tables.py`."""

_LOCK = 0x62665F706C7567
"""Postgres advisory lock under which the tables change ("bf_plug" as a number). SQLite: BEGIN IMMEDIATE is enough."""

_HOLD = Statement("SELECT pg_advisory_xact_lock(:lock)")
_FIND = Statement("SELECT version FROM bf_schema")
_FIRST = insertion("bf_schema", "version")
_NEXT = Statement("UPDATE bf_schema SET version = :version")
_ORPHANS = Statement("PRAGMA foreign_key_check")

_WAIT = ("lock_timeout = '60s'", "idle_in_transaction_session_timeout = 0")
"""Postgres: another process may be in a step that takes a while, and a function may compute between two statements."""


def bring_up_to_date(engine: Engine, *, create: bool, steps: Sequence[Step] = STEPS) -> None:
    """Make the tables or take the steps that are missing, each in a transaction of its own; raises as `advance`."""
    ready = False
    while not ready:
        with engine.begin() as connection:
            ready = advance(connection, create=create, steps=steps)


def advance(connection: Connection, *, create: bool, steps: Sequence[Step] = STEPS) -> bool:
    """Make the tables, or take one step, in the transaction that has begun; tell whether they are up to date now.

    Call it again in the next transaction until they are. Raises ConfigurationError for tables of a version that this
    release cannot work with, and with `create` false where there are none.
    """
    _lock(connection)
    latest = 1 + len(steps)
    version = version_of(connection)
    if version is None and not create:
        raise ConfigurationError("there is no journal in this database: set BF_DATABASE_URL to where it is")
    if version is None or version == latest:
        metadata.create_all(connection)  # for version 1 too: it had fewer tables at first
        if version is None:
            _FIRST.run(connection, version=latest)
        return True
    _check(version, latest)
    step = steps[version - 1]
    if isinstance(step, str):
        connection.exec_driver_sql(step)
    else:
        step(connection)
    _NEXT.run(connection, version=version + 1)
    if connection.dialect.name == "sqlite" and _ORPHANS.rows(connection):
        raise JournalError(
            f"the step to version {version + 1} of the journal's tables leaves rows without their parent"
        )
    return False


def version_of(connection: Connection) -> int | None:
    """Return the version of a database's tables, None where there are none."""
    if not inspect(connection).has_table(schema.name):
        return None
    version: int | None = _FIND.value(connection)
    return version


def _lock(connection: Connection) -> None:
    """Keep other processes from changing the tables until this transaction ends."""
    if connection.dialect.name == "postgresql":
        for setting in _WAIT:
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        _HOLD.rows(connection, lock=_LOCK)


def _check(version: int, latest: int) -> None:
    if version > latest:
        raise ConfigurationError(
            f"BF_DATABASE_URL: the journal's tables have version {version}, this release knows {latest}: "
            "a newer release made them, run that one here too, or restore the backup made before it was installed"
        )
    if version < 1:
        raise ConfigurationError(
            f"BF_DATABASE_URL: the journal's tables have version {version}, this release knows 1 to {latest}: "
            "the change log says which release brings them up to date; else use a new database"
        )
