"""Opening the journal: where it lies, its engine, its keys, its schema."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.failures import explain
from bf_plugin.journal.keys import KeyStore
from bf_plugin.journal.log import MessageLog
from bf_plugin.journal.migrations import bring_up_to_date
from bf_plugin.journal.overview import Overview
from bf_plugin.journal.owners import OwnerStore
from bf_plugin.journal.pluginvalues import PluginValues
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.purge import purge_batch
from bf_plugin.journal.runs import RunStore
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.steps import StepStore
from bf_plugin.journal.threads import ThreadStore
from bf_plugin.journal.vault import Vault
from bf_plugin.journal.writer import written

Database = SqliteFile | PostgresServer


class Journal:
    """The database: `runs`, `steps`, `log` and so on are its parts. `database` is where it lies."""

    def __init__(self, writers: Engine, readers: Engine, vault: Vault, database: Database) -> None:
        self.database = database
        self.vault = vault
        self._engines = (writers, readers)
        self._writer = database.writer(writers)
        self.runs = RunStore(readers, self._writer, vault)
        self.steps = StepStore(readers, self._writer, vault)
        self.log = MessageLog(readers, self._writer, vault)
        self.keys = KeyStore(readers, self._writer, vault)
        self.owners = OwnerStore(readers, self._writer, vault)
        self.plugin_values = PluginValues(readers, self._writer, vault)
        self.overview = Overview(readers, self._writer, vault)
        self.threads = ThreadStore(readers, self._writer, vault)

    def check(self) -> None:
        """Write a row and take it back, in one transaction. Raises JournalError when the database cannot be written."""
        written(self.owners.try_out(), 5.0)

    def purge(self, before: float) -> Future[int]:
        """Remove some of what ended, or was last used, before a time (POSIX seconds); return how much, 0 when done."""
        return self._writer.commit(lambda connection: purge_batch(connection, before))

    def close(self) -> None:
        """Commit what is queued and close all connections."""
        self._writer.close()
        self.database.close()
        for engine in self._engines:
            engine.dispose()


def open_journal(url: str, secret_keys: Sequence[str] = (), *, create: bool = True) -> Journal:
    """Open the journal at an SQLAlchemy URL, creating file, key and schema where needed; `create` says if it may.

    Raises ConfigurationError for a URL that cannot work, JournalError when the database fails.
    """
    database = database_of(url)
    vault = Vault(database.keys(secret_keys, create=create))
    engine = database.tables_engine()
    try:
        bring_up_to_date(engine, create=create)
    except DBAPIError as error:
        raise explain(error) from None
    finally:
        engine.dispose()
    return Journal(*database.engines(), vault, database)


def database_of(url: str) -> Database:
    """Return what an SQLAlchemy URL names, without looking there. Raises ConfigurationError for what cannot work."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("BF_DATABASE_URL: not a database URL such as sqlite:////var/lib/app/bf.db") from None
    if parsed.drivername.partition("+")[0] in ("postgresql", "postgres"):
        return PostgresServer(parsed)
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError("BF_DATABASE_URL: only sqlite:/// and postgresql:// are supported")
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError("BF_DATABASE_URL: an SQLite file is needed; memory does not survive and is not shared")
    return SqliteFile(Path(parsed.database).absolute())


def default_url(name: str | None, host: object) -> str:
    """Return the URL of the database used when none is set: under the user's state directory.

    One file per `name`; without one, per working directory and host app, so that two gateways of one user do not meet.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    if name is None:
        origin = f"{Path.cwd()}\0{type(host).__module__}\0{getattr(host, '__qualname__', type(host).__qualname__)}"
        name = hashlib.sha256(origin.encode()).hexdigest()[:16]
    return f"sqlite:///{Path(state) / 'bf_plugin' / (name + '.db')}"
