"""Commits: one call, `commit`, and a thread that carries out the jobs that wait together in one transaction.

A commit costs about as much for fifty rows as for one, and SQLite has one writer anyway. The thread first carries a
group of jobs out without savepoints, which cost more than most jobs do. If a job fails that may have written, the
thread undoes the group and carries it out again with a savepoint a job: then only the failing job is undone. It also
carries the group out again where the database goes away for a while, and where two processes lock each other's rows. If
a commit was not answered, it first looks up what became of it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from bf_plugin.errors import Fenced, JournalError
from bf_plugin.journal.failures import OUTAGE, explain, is_committed, passes, pauses, transaction_id
from bf_plugin.journal.fence import signalled
from bf_plugin.journal.records import RunEnded
from bf_plugin.runtime.logs import get_logger

T = TypeVar("T")
Job = Callable[[Connection], Any]
Done = tuple[Any, "BaseException | None"]
"""What a job returned, and what it failed with: one of the two."""

BEFORE_WRITING = (Fenced, RunEnded)
"""What a fence raises: nothing was changed then, so there is nothing to undo."""

_GROUP = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A job that waits. `key` is the run whose row it locks first, `writes` is how many rows it may write."""

    job: Job
    key: str
    writes: int
    future: Future[Any] = field(default_factory=Future)

    def settle(self, done: Done) -> None:
        """Tell whoever waits."""
        value, failure = done
        if failure is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(failure)


class _Failing(Exception):
    """A job failed, and may have written before: its group is carried out again with savepoints."""


class _InDoubt(Exception):
    """The commit of a transaction was not answered."""

    def __init__(self, transaction: str, outcomes: list[Done], cause: DBAPIError) -> None:
        super().__init__(transaction)
        self.transaction = transaction
        self.outcomes = outcomes
        self.cause = cause


class Writer:
    """Commits jobs on a daemon thread; those of one key in the order they came in.

    `wake` is told whom a commit concerns, `wrote` how many rows it had.
    """

    def __init__(
        self,
        engine: Engine,
        wake: Callable[[Collection[str]], None] = lambda owners: None,
        wrote: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._engine = engine
        self._wake = wake
        self._wrote = wrote
        self._connection: Connection | None = None  # kept: taking one out of the pool costs more than a small commit
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._closed = False
        self._log = get_logger(__name__)
        self._lock = threading.Lock()  # between commit and close: nothing may be queued behind the end mark
        self._thread = threading.Thread(target=self._work, name="bf-journal", daemon=True)
        self._thread.start()

    def commit(self, job: Callable[[Connection], T], key: str = "", writes: int = 1) -> Future[T]:
        """Have `job` carried out in a transaction; the future resolves after its commit.

        A job may be carried out again, from its beginning, if its transaction was undone. Raises (through the future)
        what the job raised, or JournalError when the transaction failed.
        """
        entry = Entry(job, key, writes)
        with self._lock:
            if self._closed:
                entry.future.set_exception(JournalError("the journal is closed: this process is shutting down"))
            else:
                self._unfinished += 1
                self._queue.put(entry)
        return entry.future

    @property
    def idle(self) -> bool:
        """Whether no job waits or is being carried out, and more may come."""
        return not self._unfinished and not self._closed

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            wanted = [entry for entry in group if entry.future.set_running_or_notify_cancel()]
            if wanted:
                self._commit_group(wanted)
            with self._lock:
                self._unfinished -= len(group)
        self._disconnect()

    def _next_group(self) -> tuple[list[Entry], bool]:
        group: list[Entry] = []
        size = 0
        entry = self._queue.get()
        while entry is not None:
            group.append(entry)
            size += entry.writes
            if size >= _GROUP:
                return group, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit_group(self, group: list[Entry]) -> None:
        # Two processes that lock rows in the same order do not lock each other out.
        group.sort(key=lambda entry: entry.key)
        try:
            outcomes = self._insist(group)
        except Exception as error:
            outcomes = [(None, explain(error))] * len(group)
        for entry, outcome in zip(group, outcomes, strict=True):
            entry.settle(outcome)

    def _insist(self, group: Sequence[Entry]) -> list[Done]:
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
                self._log.warning("the journal tries %d writes again: %s", len(group), explain(problem))
            said = True
            time.sleep(pause)

    def _transact(self, group: Sequence[Entry], apart: bool) -> list[Done]:
        attempt = _attempt_apart if apart else _attempt
        try:
            connection = self._connection = self._connection or self._engine.connect()
            transaction = connection.begin()
            outcomes = [attempt(connection, entry.job) for entry in group]
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
        self._wrote(sum(entry.writes for entry in group))
        return outcomes

    def _disconnect(self) -> None:
        """Give the connection back; the database undoes what it had begun."""
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


def written(future: Future[T], seconds: float = 30.0) -> T:
    """Wait for a write, in a request thread. Raises JournalError when it takes longer; it is not carried out then."""
    try:
        return future.result(seconds)
    except FutureTimeoutError:
        if not future.cancel():
            with contextlib.suppress(FutureTimeoutError):
                return future.result(seconds)  # under way: sqlite3 gives it up by itself
        raise JournalError(f"the journal took no write within {seconds:g} s: see what keeps its disk busy") from None


def _attempt(connection: Connection, job: Job) -> Done:
    """Run a job. Raises what undoes the whole group: failures that pass, and _Failing."""
    try:
        return job(connection), None
    except BEFORE_WRITING as error:
        return None, error
    except Exception as error:
        if passes(error):
            raise
        raise _Failing from None


def _attempt_apart(connection: Connection, job: Job) -> Done:
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
