"""The journal in an SQLite file: its engines, its checkpoints, and what processes of one host see of each other by it.

A checkpoint moves what was committed from the write-ahead log into the file. SQLite makes one within a commit, once the
log has 1,000 pages: whoever commits then waits for the disk. Here a thread does it. Under load the log never stands
still, and one that is never empty never starts again from its beginning (sqlite.org/wal.html, "Avoiding Excessively
Large WAL Files"). So first most of it is moved while others write, then the little that has come meanwhile, for which
writers wait.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.direct import Direct, LoopWriter
from bf_plugin.journal.vault import key_in
from bf_plugin.journal.writer import Writer

_BUSY = 10.0
"""Seconds to wait for another writer."""

_RESTART = 0.1
"""Seconds a checkpoint waits for others, and others for it, until the log can begin again."""

EVERY = 2_000
"""Writes from one checkpoint to the next: some 3,000 pages, 12 MB."""

FEW = 1_000
"""Pages that may be left for the second part. More are left only if somebody is reading what is in them, a backup say:
then writers would wait in vain."""

_PAUSE = 0.01
"""Seconds between two tries to give a file its write-ahead log."""

_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
_WRITING = (*_PRAGMAS, "wal_autocheckpoint=20000")
"""Pages (4 KB) after which a commit makes a checkpoint by itself, should the thread for it not come to it."""


class SqliteFile:
    """The file, and what lies beside it: a folder in which each process of the deployment has a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner: str | None = None
        """This process's own mark, once it drives runs: it need not be woken."""
        self._checkpoints = Checkpoints(_engine(path, "BEGIN", _RESTART, _PRAGMAS))

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    @property
    def key_file(self) -> Path:
        """Where the secret key lies that was made by itself."""
        return self.path.with_name(self.path.name + ".key")

    @property
    def lock_folder(self) -> Path:
        """Where the processes of this deployment mark themselves as alive."""
        return self.path.with_name(self.path.name + ".d")

    def wake(self, owners: Iterable[str]) -> None:
        """Have other processes look at the journal: they watch the time of their marks."""
        now = time.time_ns()
        for owner in owners:
            if owner != self.owner:
                with contextlib.suppress(OSError):  # it has gone, or is another user's; all look by themselves too
                    os.utime(self.lock_folder / owner, ns=(now, now))

    def keys(self, given: Sequence[str], *, create: bool) -> Sequence[str]:
        """Return the secret keys, those given or the one beside the file; make folder and key where they are missing.

        Raises ConfigurationError where that cannot be done, and with `create` false where there is no file.
        """
        if not create and not self.path.exists():
            raise ConfigurationError(f"there is no journal at {self.path}: set BF_DATABASE_URL to where it is")
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"BF_DATABASE_URL: cannot create {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(f"BF_DATABASE_URL: {folder} cannot be written by this user")
        return given or [key_in(self.key_file)]

    def engines(self) -> tuple[Engine, Engine]:
        """Return an engine for the writer and one for readers."""
        return _engine(self.path, "BEGIN IMMEDIATE", _BUSY, _WRITING), _engine(self.path, "BEGIN", _BUSY, _PRAGMAS)

    def tables_engine(self) -> Engine:
        """Return an engine for changes of the tables: without foreign keys, since a table may have to be built anew."""
        return _engine(self.path, "BEGIN IMMEDIATE", _BUSY, (*_PRAGMAS, "foreign_keys=OFF"))

    def visiting_engine(self, timeout: float) -> Engine:
        """Return an engine that leaves the file as it is until it writes; it waits `timeout` s for other writers."""
        return _engine(self.path, "BEGIN IMMEDIATE", timeout, ())

    def writer(self, engine: Engine) -> Writer:
        """Return what commits."""
        return LoopWriter(engine, self.direct(), self.wake, self._checkpoints.wrote)

    def direct(self) -> Direct:
        """Return what commits on the event loop itself."""
        return Direct(_engine(self.path, "BEGIN IMMEDIATE", 0.0, _WRITING), self.wake, self._checkpoints.wrote)

    def close(self) -> None:
        """Make no checkpoint any more."""
        self._checkpoints.close()


class Checkpoints:
    """Counts writes, and makes checkpoints on a daemon thread of its own, which begins with the first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._written = 0
        self._due = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def wrote(self, count: int) -> None:
        """Count writes that were committed. Called from any thread."""
        with self._lock:
            self._written += count
            if self._written < EVERY or self._closed:
                return
            self._written = 0
            self._due.set()
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="bf-checkpoint", daemon=True)
                with contextlib.suppress(RuntimeError):  # no thread can be had now: what was written is written
                    thread.start()
                    self._thread = thread

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed = True
            self._due.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._engine.dispose()

    def _work(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._closed:
                return
            # What fails here is tried again after the next writes; a disk that fails is the writer's to report.
            with contextlib.suppress(sqlite3.Error, DBAPIError), self._engine.connect() as connection:
                driver: Any = connection.connection.dbapi_connection
                _, pages, moved = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if pages - moved < FEW:
                    driver.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()


def try_folder(folder: Path) -> None:
    """Make a database in a folder, as ours are, and remove it. Raises ConfigurationError where that cannot be done."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".bf-doctor-", dir=folder) as name,
            contextlib.closing(sqlite3.connect(Path(name) / "try.db", isolation_level=None)) as connection,
        ):
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise ConfigurationError(
                    f"{folder} has no shared memory for SQLite: put BF_DATABASE_URL on a local disk"
                )
            connection.execute("CREATE TABLE try AS SELECT zeroblob(65536)")
    except OSError as error:
        raise ConfigurationError(
            f"BF_DATABASE_URL: {folder} cannot be written by this user: {error.strerror}"
        ) from None
    except sqlite3.Error as error:
        raise ConfigurationError(f"BF_DATABASE_URL: {folder} takes no SQLite database: {error}") from None


def _engine(path: Path, begin: str, busy: float, pragmas: Sequence[str]) -> Engine:
    """Return an engine whose transactions start with `begin`, not when pysqlite guesses (SQLAlchemy docs)."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False, "timeout": busy})

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            _set(connection, pragma, busy)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _set(connection: sqlite3.Connection, pragma: str, busy: float) -> None:
    """Carry out a pragma. Raises sqlite3.Error.

    Of two processes that give a new file its write-ahead log at once, one is told that the file is locked without the
    wait that is set for it, because each would wait for the other (sqlite.org/c3ref/busy_handler.html).
    """
    until = time.monotonic() + busy
    while True:
        try:
            connection.execute(f"PRAGMA {pragma}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)
