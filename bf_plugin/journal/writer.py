"""One thread that writes: jobs that wait together are committed together.

A commit costs about as much for fifty rows as for one, and SQLite has one writer anyway. A job that fails is undone
alone, by its savepoint; its neighbours in the group are not touched. Where the database goes away for a while, or two
processes lock each other's rows, the whole group is carried out again; whether a commit that was not answered
happened is asked first.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import JournalError
from bf_plugin.journal.outages import OUTAGE, is_committed, passes, pauses, transaction_id
from bf_plugin.logs import get_logger

T = TypeVar("T")
Job = Callable[[Connection], Any]
Outcome = tuple[Any, "BaseException | None"]

_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Entry:
    """A queued job; `key` is the run whose row it locks first."""

    key: str
    job: Job
    future: Future[Any]


class _InDoubt(Exception):
    """The commit of a transaction was not answered."""

    def __init__(self, transaction: str, outcomes: list[Outcome], cause: DBAPIError) -> None:
        super().__init__(transaction)
        self.transaction = transaction
        self.outcomes = outcomes
        self.cause = cause


class Writer:
    """Runs jobs in transactions, on a daemon thread; those of one key in the order they came in."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._closed = False
        self._log = get_logger(__name__)
        self._lock = threading.Lock()  # between submit and close: nothing may be queued behind the end mark
        self._thread = threading.Thread(target=self._work, name="bf-journal", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[Connection], T], key: str = "") -> Future[T]:
        """Queue `job`; the future resolves after its commit.

        Raises (through the future) what the job raised, or JournalError when the transaction failed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.set_exception(JournalError("the journal is closed: this process is shutting down"))
            else:
                self._queue.put(_Entry(key, job, future))
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

    def _next_group(self) -> tuple[list[_Entry], bool]:
        group: list[_Entry] = []
        entry = self._queue.get()
        while entry is not None:
            if entry.future.set_running_or_notify_cancel():
                group.append(entry)
            if len(group) == _GROUP:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[_Entry]) -> None:
        # Two processes that lock rows in the same order do not lock each other out.
        group.sort(key=lambda entry: entry.key)
        try:
            outcomes = self._insist(group)
        except Exception as error:
            problem = explain(error)
            for entry in group:
                entry.future.set_exception(problem)
            return
        for entry, (value, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                entry.future.set_result(value)
            else:
                entry.future.set_exception(failure)

    def _insist(self, group: list[_Entry]) -> list[Outcome]:
        """Carry out a group, again if need be; return what came of each job."""
        tries = pauses(OUTAGE)
        doubt: _InDoubt | None = None
        said = False
        while True:
            try:
                if doubt is not None and self._happened(doubt):
                    return doubt.outcomes
                doubt = None
                return self._transact(group)
            except _InDoubt as error:
                doubt, problem = error, error.cause
            except DBAPIError as error:
                problem = error
            pause = next(tries, None) if passes(problem) and not self._closed else None
            if pause is None:
                raise problem
            if not said:
                self._log.warning("%d writes are tried again: %s", len(group), explain(problem))
            said = True
            time.sleep(pause)

    def _transact(self, group: list[_Entry]) -> list[Outcome]:
        with self._engine.connect() as connection:
            transaction = connection.begin()
            outcomes = [_attempt(connection, entry.job) for entry in group]
            name = transaction_id(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if name is None or not passes(error):
                    raise
                raise _InDoubt(name, outcomes, error) from None
        return outcomes

    def _happened(self, doubt: _InDoubt) -> bool:
        """Tell whether a transaction in doubt was committed. Raises it again while the server does not know yet."""
        with self._engine.connect() as connection:
            committed = is_committed(connection, doubt.transaction)
        if committed is None:
            raise doubt
        return committed


def written(future: Future[T], seconds: float = 30.0) -> T:
    """Wait for a write, in a request thread. Raises JournalError when it takes longer; it is not carried out then."""
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if not future.cancel():
            with contextlib.suppress(FutureTimeoutError):
                return future.result(seconds)  # under way: sqlite3 gives it up by itself
        raise JournalError(f"the journal took no write within {seconds:g} s: see what keeps its disk busy") from None


def _attempt(connection: Connection, job: Job) -> Outcome:
    """Run a job in a savepoint. Raises only what makes the whole group worth another try."""
    savepoint = connection.begin_nested()
    try:
        value = job(connection)
        savepoint.commit()
    except DBAPIError as error:
        if passes(error):
            raise
        try:
            savepoint.rollback()
        except DBAPIError:
            raise error from None  # SQLite has undone the whole transaction by itself: the disk is full, say
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
    return JournalError(f"the journal cannot be written: {reason.strip()}; {advice}")


_ADVICE = {
    "password authentication": "correct user and password in BF_DATABASE_URL",
    "does not exist": "create it, or correct BF_DATABASE_URL",
    "Connection refused": "see that the server runs, and that host and port in BF_DATABASE_URL are right",
    "resolve host": "correct the host in BF_DATABASE_URL",
    "too many clients": "raise max_connections of the server, or run fewer processes",
    "permission denied": "grant its user the right to create and write tables",
    "read-only": "connect to the primary server, which can be written",
    "disk is full": "free space on the disk that holds it",
    "locked": "another program keeps a write transaction open on it; end that program",
    "readonly": "make the file and its folder writable for this user, or set BF_DATABASE_URL",
    "disk I/O": "its disk is failing or full",
    "not a database": "another program's file lies there: correct BF_DATABASE_URL",
    "malformed": "restore it from a backup, or move it away to start afresh",
}
