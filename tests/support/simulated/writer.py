"""A journal's writer that commits when it is told to."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from bf_plugin.journal.direct import Direct, on_a_loop
from bf_plugin.journal.seals import SealGroup
from bf_plugin.journal.writer import Entry, Writer
from simulated.clock import Awaited
from simulated.driving import DRIVING, Driver

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Write:
    """A write that waits, and the drivers it is by: none if a request or a watcher asked for it."""

    entry: Entry
    drivers: tuple[Driver, ...]

    @property
    def name(self) -> str:
        """Which write it is, such as `RunStore.decide`."""
        job: Any = self.entry.job
        return "Seal" if isinstance(job, SealGroup) else str(job.__qualname__).partition(".<locals>")[0]


class Auditor(Protocol):
    """Whoever looks at each commit."""

    def is_stale(self, write: Write) -> bool:
        """Tell whether a write is by a driver that has lost its run, so that it must change nothing of it."""
        ...

    def commit(self, writes: list[Write], commit: Callable[[], None]) -> None:
        """Call `commit`, and look at what that did."""
        ...


class SteppedDirect(Direct):
    """Commits on the loop, seen by the auditor."""

    def __init__(self, engine: Engine, auditor: Auditor, wake: Callable[[Collection[str]], None]) -> None:
        super().__init__(engine, wake, clock=lambda: 0.0)  # no commit is slow here, however busy the machine is
        self._auditor = auditor

    def write(self, write: Write) -> Future[Any] | None:
        """Commit a write, or leave it to the writer."""
        done: list[Future[Any] | None] = []

        def attempt() -> None:
            with contextlib.suppress(Exception):  # the writer will say what it is
                done.append(self.commit(write.entry.job, write.entry.writes))

        self._auditor.commit([write], attempt)
        self.close()  # the other processes are to have the one connection
        return done[0] if done else None


class SteppedWriter(Writer):
    """Commits as the real one does, in groups, but not on a thread. When `dead`, what waits is lost."""

    def __init__(
        self, engine: Engine, auditor: Auditor, wake: Callable[[Collection[str]], None], *, direct: bool
    ) -> None:
        super().__init__(engine, wake)
        self._waiting: deque[Write] = deque()
        self._auditor = auditor
        self._now = SteppedDirect(engine, auditor, wake) if direct else None
        self.dead = False

    def commit(self, job: Callable[[Connection], T], key: str = "", writes: int = 1) -> Future[T]:
        future: Future[T] = Awaited(self.advance)
        write = Write(Entry(job, key, writes, future), _drivers(job))
        if self._now is not None and not self._waiting and not self.dead and on_a_loop():
            done = self._now.write(write)
            if done is not None:
                return done
        if not self.dead:
            self._waiting.append(write)
        return future

    def advance(self, limit: int | None = None) -> bool:
        """Commit what waits, or the first `limit` of it; False if nothing did."""
        if self.dead or not self._waiting:
            return False
        count = len(self._waiting) if limit is None else min(limit, len(self._waiting))
        taken = [self._waiting.popleft() for _ in range(count)]
        for _, writes in groupby(taken, self._auditor.is_stale):
            self._commit_together(list(writes))
        return True

    def close(self) -> None:
        self.dead = True
        super().close()

    def _commit_together(self, writes: list[Write]) -> None:
        wanted = [write for write in writes if write.entry.future.set_running_or_notify_cancel()]
        if wanted:
            self._auditor.commit(wanted, lambda: self._commit_group([write.entry for write in wanted]))
            self._disconnect()  # the other processes are to have the one connection


def _drivers(job: Any) -> tuple[Driver, ...]:
    """Return the drivers a job is by."""
    if isinstance(job, SealGroup):
        return tuple(Driver(seal.run_id, seal.epoch) for seal in job.seals)
    driver = DRIVING.get()
    return (driver,) if driver else ()
