"""Opening the journal: where it lies, its engine, its keys, its schema."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.keys import KeyStore
from bf_plugin.journal.log import MessageLog
from bf_plugin.journal.overview import Overview
from bf_plugin.journal.purge import purge_batch
from bf_plugin.journal.runs import RunStore
from bf_plugin.journal.steps import StepStore
from bf_plugin.journal.tables import metadata
from bf_plugin.journal.threads import ThreadStore
from bf_plugin.journal.vault import Vault, key_beside
from bf_plugin.journal.writer import Writer, explain, written

_BUSY_MS = 10_000


class Journal:
    """The database: `runs`, `steps`, `log`, `threads`, `keys`, `overview` are its parts. `path` is the SQLite file."""

    def __init__(self, writers: Engine, readers: Engine, vault: Vault, path: Path) -> None:
        self.path = path
        self.vault = vault
        self._watching: sqlite3.Connection | None = None
        self._engines = (writers, readers)
        self._writer = Writer(writers)
        self.runs = RunStore(readers, self._writer, vault)
        self.steps = StepStore(readers, self._writer, vault)
        self.log = MessageLog(readers, self._writer, vault)
        self.threads = ThreadStore(readers, self._writer, vault)
        self.keys = KeyStore(readers, self._writer, vault)
        self.overview = Overview(readers, self._writer, vault)

    @property
    def lock_folder(self) -> Path:
        """Where the processes of this deployment mark themselves as alive."""
        return self.path.with_name(self.path.name + ".d")

    def data_version(self) -> int:
        """Return a number that changes when another connection has written (SQLite, PRAGMA data_version).

        To be called from one thread: the number is that of one connection.
        """
        if self._watching is None:
            self._watching = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        return int(self._watching.execute("PRAGMA data_version").fetchone()[0])

    def check(self) -> None:
        """Write nothing, in a transaction. Raises JournalError when the database cannot be written."""
        written(self._writer.submit(lambda connection: None), 5.0)

    def purge(self, before: float) -> Future[int]:
        """Remove some of what ended, or was last used, before a time (POSIX seconds); return how much, 0 when done."""
        return self._writer.submit(lambda connection: purge_batch(connection, before))

    def close(self) -> None:
        """Commit what is queued and close all connections."""
        self._writer.close()
        if self._watching is not None:
            self._watching.close()
        for engine in self._engines:
            engine.dispose()


def open_journal(url: str, secret_keys: Sequence[str] = (), *, create: bool = True) -> Journal:
    """Open the journal at an SQLAlchemy URL, creating file, key and schema where needed; `create` says if it may.

    Raises ConfigurationError for a URL that cannot work, JournalError when the database fails.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("BF_DATABASE_URL: not a database URL such as sqlite:////var/lib/app/bf.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise ConfigurationError("BF_DATABASE_URL: only sqlite:/// is supported by this release")
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigurationError("BF_DATABASE_URL: an SQLite file is needed; memory does not survive and is not shared")
    path = Path(parsed.database).absolute()
    if not create and not path.exists():
        raise ConfigurationError(f"there is no journal at {path}: set BF_DATABASE_URL to where it is")
    _make_folder(path)
    vault = Vault(secret_keys or [key_beside(path)])
    writers, readers = _sqlite_engine(path, "BEGIN IMMEDIATE"), _sqlite_engine(path, "BEGIN")
    try:
        with writers.begin() as connection:
            metadata.create_all(connection)
    except DBAPIError as error:
        raise explain(error) from None
    return Journal(writers, readers, vault, path)


def default_url(name: str | None, host: object) -> str:
    """Return the URL of the database used when none is set: under the user's state directory.

    One file per `name`; without one, per working directory and host app, so that two gateways of one user do not meet.
    """
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    if name is None:
        origin = f"{Path.cwd()}\0{type(host).__module__}\0{getattr(host, '__qualname__', type(host).__qualname__)}"
        name = hashlib.sha256(origin.encode()).hexdigest()[:16]
    return f"sqlite:///{Path(state) / 'bf_plugin' / (name + '.db')}"


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"BF_DATABASE_URL: cannot create {path.parent}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"BF_DATABASE_URL: {path.parent} cannot be written by this user")


def _sqlite_engine(path: Path, begin: str) -> Engine:
    """Return an engine whose transactions start with `begin`, not when pysqlite guesses (SQLAlchemy docs)."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
