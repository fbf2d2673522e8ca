"""Commits on the event loop itself, in an SQLite file, where nothing stands in the way.

Such a commit is a few writes into the page cache (WAL mode, synchronous=NORMAL: sqlite.org/wal.html), which takes a
millisecond at most. To hand it to the writer's thread and back takes more: both threads want the interpreter, and each
gets it back only when the other lets go of it, up to 5 ms later. So the loop tries by itself. It never waits: where
another connection is writing, or anything fails, nothing is changed and the writer is asked, who can wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.journal.signals import signalled

SLOW = 0.02
"""Seconds for a commit that show that the disk is not as quick as it should be."""

REST = 1.0
"""Seconds for which the writer has all to itself then: it has a thread that may wait for disks."""


class Direct:
    """A connection of the event loop's own; `commit` is called there only. `wake` and `wrote` are as the writer's."""

    def __init__(
        self,
        engine: Engine,
        wake: Callable[[Collection[str]], None] = lambda owners: None,
        wrote: Callable[[int], None] = lambda count: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._wake = wake
        self._wrote = wrote
        self._clock = clock
        self._connection: Connection | None = None
        self._not_before = 0.0

    def commit(self, work: Callable[[Connection], bool], writes: int) -> bool:
        """Do `work`, so many writes, in a transaction. Returns False when nothing was changed: the writer must do it.

        `work` returns whether it could be done at all. What it raises is raised, but for failures of the database.
        """
        began = self._clock()
        if began < self._not_before:
            return False
        done = self._tried(work)
        if self._clock() - began > SLOW:
            self._not_before = self._clock() + REST
        if done:
            self._wrote(writes)
        return done

    def close(self) -> None:
        """Close the connection; what it had begun is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()
        self._engine.dispose()

    def _tried(self, work: Callable[[Connection], bool]) -> bool:
        try:
            connection = self._connection = self._connection or self._engine.connect()
            driver: Any = connection.connection.dbapi_connection
            driver.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, DBAPIError):  # most likely another connection is writing; the writer will say what it is
            return False
        try:
            done = work(connection)
            driver.execute("COMMIT" if done else "ROLLBACK")
            owners = signalled(connection)
        except (sqlite3.Error, DBAPIError):
            self.close()
            return False
        except BaseException:
            self.close()
            raise
        if done and owners:
            self._wake(owners)
        return done
