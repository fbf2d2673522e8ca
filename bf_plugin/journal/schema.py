"""The tables on a database: made once, however many processes boot together, and of a known version."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, inspect, select

from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.tables import metadata, runs, schema

VERSION = 1
"""Of the tables: raised with every change that an earlier release could not work with. A new table is no such change:
whoever starts first makes it, and a release that does not know it does not miss it."""

_LOCK = 0x62665F706C7567
"""Postgres advisory lock under which the tables are made ("bf_plug" as a number). SQLite: BEGIN IMMEDIATE does it."""


def lock_schema(connection: Connection) -> None:
    """Keep other processes from making tables until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def prepare(connection: Connection, *, create: bool) -> None:
    """Make what is missing, or with `create` false only look.

    Raises ConfigurationError for tables of another version, and for none where they may not be made.
    """
    lock_schema(connection)
    tables = set(inspect(connection).get_table_names())
    if runs.name not in tables and not create:
        raise ConfigurationError("there is no journal in this database: set BF_DATABASE_URL to where it is")
    if schema.name in tables:
        _check(connection.execute(select(schema.c.version)).scalar())
    metadata.create_all(connection)
    if connection.execute(select(schema.c.version)).first() is None:
        connection.execute(insert(schema).values(version=VERSION))


def _check(version: int | None) -> None:
    if version is None:
        return
    if version > VERSION:
        raise ConfigurationError(
            f"BF_DATABASE_URL: the journal's tables have version {version}, this release knows {VERSION}: "
            "a newer release made them, run that one here too"
        )
    if version < VERSION:
        raise ConfigurationError(
            f"BF_DATABASE_URL: the journal's tables have version {version}, this release needs {VERSION}: "
            "the change log says how to bring them up to date; else use a new database"
        )
