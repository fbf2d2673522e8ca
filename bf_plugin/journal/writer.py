"""One thread that writes: jobs that wait together are committed together.

A commit costs about as much for fifty rows as for one, and SQLite has one writer anyway. A job that fails is undone
alone, by its savepoint; its neighbours in the group are not touched.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import JournalError

T = TypeVar("T")
Job = Callable[[Connection], Any]

_GROUP = 256


class Writer:
    """Runs jobs in order, in transactions, on a daemon thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[tuple[Job, Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()  # between submit and close: nothing may be queued behind the end mark
        self._thread = threading.Thread(target=self._work, name="bf-journal", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Connection], T]) -> Future[T]:
        """Queue `job`; the future resolves after its commit.

        Raises (through the future) what the job raised, or JournalError when the transaction failed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(JournalError("the journal is closed: this process is shutting down"))
            else:
                self._queue.put((job, future))
        return future

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                self._commit(group)
            if last:
                return

    def _next_group(self) -> tuple[list[tuple[Job, Future[Any]]], bool]:
        group: list[tuple[Job, Future[Any]]] = []
        entry = self._queue.get()
        while entry is not None:
            if entry[1].set_running_or_notify_cancel():
                group.append(entry)
            if len(group) == _GROUP:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[tuple[Job, Future[Any]]]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                for job, future in group:
                    results.append((future, *_attempt(connection, job)))
        except Exception as error:
            problem = explain(error)
            for _, future in group:
                future.set_exception(problem)
            return
        for future, value, failure in results:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)


def written(future: Future[T], seconds: float = 30.0) -> T:
    """Wait for a write, in a request thread. Raises JournalError when it takes longer; it is not carried out then."""
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if not future.cancel():
            with contextlib.suppress(FutureTimeoutError):
                return future.result(seconds)  # under way: sqlite3 gives it up by itself
        raise JournalError(f"the journal took no write within {seconds:g} s: see what keeps its disk busy") from None


def _attempt(connection: Connection, job: Job) -> tuple[Any, BaseException | None]:
    savepoint = connection.begin_nested()
    try:
        value = job(connection)
        savepoint.commit()
    except DBAPIError as error:
        savepoint.rollback()
        return None, explain(error)
    except Exception as error:
        savepoint.rollback()
        return None, error
    return value, None


def explain(error: BaseException) -> BaseException:
    """Return a database error as a JournalError that says what to do; it quotes no statement and no value."""
    if not isinstance(error, DBAPIError):
        return error if isinstance(error, JournalError) else JournalError(f"the journal failed: {type(error).__name__}")
    reason = next(iter(str(error.orig).splitlines()), type(error).__name__)
    advice = "check that the database can be reached and written"
    for word, hint in _ADVICE.items():
        if word in reason:
            advice = hint
    return JournalError(f"the journal cannot be written: {reason}; {advice}")


_ADVICE = {
    "disk is full": "free space on the disk that holds it",
    "locked": "another program keeps a write transaction open on it; end that program",
    "readonly": "make the file and its folder writable for this user, or set BF_DATABASE_URL",
    "disk I/O": "its disk is failing or full",
    "malformed": "restore it from a backup, or move it away to start afresh",
}
