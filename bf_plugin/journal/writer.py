"""One thread that writes: jobs that wait together are committed together.

A commit costs about as much for fifty rows as for one, and SQLite has one writer anyway. A group is first carried out
without savepoints, which cost more than most jobs do. If one of its jobs fails after it may have written, all is undone
and carried out again with a savepoint a job: then the failing job is undone alone, and its neighbours are not touched.
Where the database goes away for a while, or two processes lock each other's rows, the whole group is carried out again
too; whether a commit that was not answered happened is asked first.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import Fenced, JournalError
from bf_plugin.journal.direct import Direct
from bf_plugin.journal.outages import OUTAGE, is_committed, passes, pauses, transaction_id
from bf_plugin.journal.records import RunEnded
from bf_plugin.journal.signals import signalled
from bf_plugin.runtime.logs import get_logger

T = TypeVar("T")
Job = Callable[[Connection], Any]
Outcome = tuple[Any, "BaseException | None"]
"""What a job returned, and what it failed with: one of the two."""

_GROUP = 256
_BEFORE_WRITING = (Fenced, RunEnded)
"""What a fence raises: nothing was changed then, so there is nothing to undo."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A job; `key` is the run whose row it locks first."""

    key: str
    job: Job


@dataclass(frozen=True, slots=True)
class _Entry:
    """Jobs that were queued together, in the order of their keys, each with an outcome of its own.

    `alone`: the future has the one job's. `together` carries all of them out at once, or returns False.
    """

    jobs: Sequence[Keyed]
    future: Future[Any]
    alone: bool = False
    together: Callable[[Connection], bool] | None = None

    def settle(self, outcomes: list[Outcome]) -> None:
        """Tell whoever waits."""
        value, failure = outcomes[0] if self.alone else (outcomes, None)
        if failure is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(failure)


class _Failing(Exception):
    """A job failed, and may have written before: its group is carried out again with savepoints."""


class _InDoubt(Exception):
    """The commit of a transaction was not answered."""

    def __init__(self, transaction: str, outcomes: list[list[Outcome]], cause: DBAPIError) -> None:
        super().__init__(transaction)
        self.transaction = transaction
        self.outcomes = outcomes
        self.cause = cause


class Writer:
    """Runs jobs in transactions, on a daemon thread, or with `direct` on the event loop while that thread has nothing
    to do; those of one key in the order they came in.

    `wake` is told whom a commit concerns, `wrote` how many jobs it had.
    """

    def __init__(
        self,
        engine: Engine,
        wake: Callable[[Collection[str]], None] = lambda owners: None,
        wrote: Callable[[int], None] = lambda count: None,
        direct: Direct | None = None,
    ) -> None:
        self._engine = engine
        self._direct = direct
        self._unfinished = 0
        self._wake = wake
        self._wrote = wrote
        self._connection: Connection | None = None  # kept: taking one out of the pool costs more than a small commit
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._closed = False
        self._log = get_logger(__name__)
        self._lock = threading.Lock()  # between submit and close: nothing may be queued behind the end mark
        self._thread = threading.Thread(target=self._work, name="bf-journal", daemon=True)
        self._thread.start()

    def at_once(self, work: Callable[[Connection], bool], writes: int) -> bool:
        """Do some writes on the event loop itself. Returns False when nothing was changed: then they are to be queued.

        `work` returns whether it could be done. Raises Fenced and RunEnded as it does.
        """
        if self._direct is None or self._unfinished or self._closed or not _on_a_loop():
            return False
        try:
            return self._direct.commit(work, writes)
        except _BEFORE_WRITING:
            raise
        except Exception:  # the writer will say what it is
            return False

    def submit_at_once(self, job: Callable[[Connection], T]) -> Future[T] | None:
        """Do `job` on the event loop itself. Returns None when nothing was changed: then it is to be queued."""
        future: Future[T] = Future()

        def work(connection: Connection) -> bool:
            future.set_result(job(connection))
            return True

        try:
            return future if self.at_once(work, 1) else None
        except _BEFORE_WRITING as error:
            future.set_exception(error)
            return future

    def submit(self, job: Callable[[Connection], T], key: str = "") -> Future[T]:
        """Queue `job`; the future resolves after its commit.

        Raises (through the future) what the job raised, or JournalError when the transaction failed.
        """
        future: Future[T] = Future()
        self._put(_Entry([Keyed(key, job)], future, alone=True))
        return future

    def submit_all(self, jobs: Sequence[Keyed], together: Callable[[Connection], bool]) -> Future[list[Outcome]]:
        """Queue jobs, in the order of their keys; the future has their outcomes after the commit.

        `together` carries all of them out at once and returns True, or False: then what it did is undone, and they are
        carried out one by one. Raises (through the future) JournalError when the transaction failed.
        """
        future: Future[list[Outcome]] = Future()
        self._put(_Entry(jobs, future, together=together))
        return future

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout=10)
        if self._direct is not None:
            self._direct.close()

    def _put(self, entry: _Entry) -> None:
        with self._lock:
            if self._closed:
                entry.future.set_exception(JournalError("the journal is closed: this process is shutting down"))
            else:
                self._unfinished += 1
                self._queue.put(entry)

    def _work(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            wanted = [entry for entry in group if entry.future.set_running_or_notify_cancel()]
            if wanted:
                self._commit(wanted)
            with self._lock:
                self._unfinished -= len(group)
        self._disconnect()

    def _next_group(self) -> tuple[list[_Entry], bool]:
        group: list[_Entry] = []
        size = 0
        entry = self._queue.get()
        while entry is not None:
            group.append(entry)
            size += len(entry.jobs)
            if size >= _GROUP:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[_Entry]) -> None:
        # Two processes that lock rows in the same order do not lock each other out.
        group.sort(key=lambda entry: entry.jobs[0].key)
        try:
            outcomes = self._insist(group)
        except Exception as error:
            problem = explain(error)
            for entry in group:
                entry.future.set_exception(problem)
            return
        for entry, outcome in zip(group, outcomes, strict=True):
            entry.settle(outcome)

    def _insist(self, group: Sequence[_Entry]) -> list[list[Outcome]]:
        """Carry out a group, again if need be; return what came of each job."""
        tries = pauses(OUTAGE)
        doubt: _InDoubt | None = None
        apart = said = False
        while True:
            try:
                if doubt is not None and self._happened(doubt):
                    return doubt.outcomes
                doubt = None
                return self._transact(group, apart)
            except _Failing:
                apart = True
                continue
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

    def _transact(self, group: Sequence[_Entry], apart: bool) -> list[list[Outcome]]:
        try:
            connection = self._connection = self._connection or self._engine.connect()
            transaction = connection.begin()
            outcomes = [_carried_out(connection, entry, apart) for entry in group]
            owners = signalled(connection)
            name = transaction_id(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if name is None or not passes(error):
                    raise
                raise _InDoubt(name, outcomes, error) from None
        except BaseException:
            self._disconnect()
            raise
        if owners:
            self._wake(owners)
        self._wrote(sum(len(entry.jobs) for entry in group))
        return outcomes

    def _disconnect(self) -> None:
        """Give the connection back, what it had begun is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            signalled(connection)
            connection.close()

    def _happened(self, doubt: _InDoubt) -> bool:
        """Tell whether a transaction in doubt was committed. Raises it again while the server does not know yet."""
        with self._engine.connect() as connection:
            committed = is_committed(connection, doubt.transaction)
        if committed is None:
            raise doubt
        return committed


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def written(future: Future[T], seconds: float = 30.0) -> T:
    """Wait for a write, in a request thread. Raises JournalError when it takes longer; it is not carried out then."""
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if not future.cancel():
            with contextlib.suppress(FutureTimeoutError):
                return future.result(seconds)  # under way: sqlite3 gives it up by itself
        raise JournalError(f"the journal took no write within {seconds:g} s: see what keeps its disk busy") from None


def _carried_out(connection: Connection, entry: _Entry, apart: bool) -> list[Outcome]:
    attempt = _attempt_apart if apart else _attempt
    if entry.together is not None and not apart:
        if not _attempt(connection, entry.together)[0]:
            raise _Failing
        return [(None, None)] * len(entry.jobs)
    return [attempt(connection, keyed.job) for keyed in entry.jobs]


def _attempt(connection: Connection, job: Job) -> Outcome:
    """Run a job. Raises what undoes the whole group: failures that pass, and _Failing."""
    try:
        return job(connection), None
    except _BEFORE_WRITING as error:
        return None, error
    except DBAPIError as error:
        if passes(error):
            raise
        raise _Failing from None
    except Exception:
        raise _Failing from None


def _attempt_apart(connection: Connection, job: Job) -> Outcome:
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
