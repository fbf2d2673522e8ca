"""Commits on the event loop itself, in an SQLite file, where nothing stands in the way.

Such a commit is a few writes into the page cache (WAL mode, synchronous=NORMAL: sqlite.org/wal.html), which takes a
millisecond at most. To hand it to the writer's thread and back takes more: both threads want the interpreter, and each
gets it back only when the other lets go of it, up to 5 ms later. So the loop tries by itself. It never waits: where
another connection is writing, or anything fails, nothing is changed and the thread gets the job, which can wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.journal.fence import signalled
from bf_plugin.journal.writer import BEFORE_WRITING, Writer

T = TypeVar("T")

SLOW = 0.02
"""Seconds for a commit that show that the disk is not as quick as it should be."""

REST = 1.0
"""Seconds for which the thread has all to itself then."""


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

    def commit(self, job: Callable[[Connection], T], writes: int) -> Future[T] | None:
        """Carry out `job` in a transaction. Returns None when nothing was changed: then the thread must do it.

        What the job raises is raised, but for what a fence raises, which is its result, and failures of the database.
        """
        began = self._clock()
        if began < self._not_before:
            return None
        done = self._tried(job)
        if self._clock() - began > SLOW:
            self._not_before = self._clock() + REST
        if done is not None:
            self._wrote(writes)
        return done

    def close(self) -> None:
        """Close the connection; the database undoes what it had begun."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()
        self._engine.dispose()

    def _tried(self, job: Callable[[Connection], T]) -> Future[T] | None:
        try:
            connection = self._connection = self._connection or self._engine.connect()
            driver: Any = connection.connection.dbapi_connection
            driver.execute("BEGIN IMMEDIATE")
        except (sqlite3.Error, DBAPIError):  # most likely another connection is writing; the thread will say what it is
            return None
        future: Future[T] = Future()
        try:
            try:
                future.set_result(job(connection))
            except BEFORE_WRITING as refusal:
                future.set_exception(refusal)
            driver.execute("COMMIT")
            owners = signalled(connection)
        except (sqlite3.Error, DBAPIError):
            self.close()
            return None
        except BaseException:
            self.close()
            raise
        if owners:
            self._wake(owners)
        return future


class LoopWriter(Writer):
    """Lets the event loop commit by itself while the thread has nothing to do, so that writes keep their order."""

    def __init__(
        self,
        engine: Engine,
        direct: Direct,
        wake: Callable[[Collection[str]], None],
        wrote: Callable[[int], None],
    ) -> None:
        super().__init__(engine, wake, wrote)
        self._direct = direct

    def commit(self, job: Callable[[Connection], T], key: str = "", writes: int = 1) -> Future[T]:
        """Carry out `job` here and now if this is the event loop and nothing stands in the way."""
        done: Future[T] | None = None
        if self.idle and on_a_loop():
            with contextlib.suppress(Exception):  # the thread carries the job out again, and tells its caller
                done = self._direct.commit(job, writes)
        return super().commit(job, key, writes) if done is None else done

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        super().close()
        self._direct.close()


def on_a_loop() -> bool:
    """Tell whether this code runs on an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
