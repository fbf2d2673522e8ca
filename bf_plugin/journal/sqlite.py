"""The journal in an SQLite file: its engines, and what the processes of one host see of each other through it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event

from bf_plugin.errors import ConfigurationError

_BUSY_MS = 10_000


class SqliteFile:
    """The file, and what lies beside it: a folder in which each process of the deployment has a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner: str | None = None
        """This process's own mark, once it drives runs: it need not be woken."""

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

    def close(self) -> None:
        """Nothing is kept open here."""


def make_folder(path: Path) -> None:
    """See that the folder of a database is there. Raises ConfigurationError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"BF_DATABASE_URL: cannot create {path.parent}: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"BF_DATABASE_URL: {path.parent} cannot be written by this user")


def sqlite_engines(path: Path) -> tuple[Engine, Engine]:
    """Return an engine for the writer and one for readers."""
    return _engine(path, "BEGIN IMMEDIATE"), _engine(path, "BEGIN")


def _engine(path: Path, begin: str) -> Engine:
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
