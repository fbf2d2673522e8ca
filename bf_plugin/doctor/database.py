"""Whether the database can be used. Nothing in it is changed, and none is made."""

from __future__ import annotations

from collections.abc import Iterator

from bf_plugin.doctor.finding import Finding, failed
from bf_plugin.doctor.postgres import check_postgres
from bf_plugin.doctor.sqlite import check_sqlite
from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.store import database_of
from bf_plugin.settings import Settings


def check_database(url: str, settings: Settings) -> Iterator[Finding]:
    """Look at the database at an SQLAlchemy URL."""
    try:
        database = database_of(url)
    except ConfigurationError as error:
        yield failed("database", str(error))
        return
    if isinstance(database, SqliteFile):
        yield from check_sqlite(database, settings.names("secret_key"))
    else:
        yield from check_postgres(database, settings)
