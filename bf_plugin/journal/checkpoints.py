"""Moving what was committed from SQLite's write-ahead log into the database file, beside those who write.

SQLite does that within a commit, once the log has 1,000 pages: whoever commits then waits for the disk. Here a thread
does it. Under load the log never stands still, and one that is never empty never starts again from its beginning
(sqlite.org/wal.html, "Avoiding Excessively Large WAL Files"). So first most of it is moved while others write, then
the little that has come meanwhile, for which writers wait.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

EVERY = 2_000
"""Writes from one checkpoint to the next: some 3,000 pages, 12 MB."""


FEW = 1_000
"""Pages that may be left for the second part. More are left only if somebody is reading what is in them, a backup say:
then writers would wait in vain."""


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
