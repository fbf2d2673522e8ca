"""A journal's writer that commits when it is told to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeVar

from sqlalchemy import Connection, Engine

from bf_plugin.journal.writer import Writer, _Entry
from simulated.clock import Awaited
from simulated.driving import DRIVING, Driver

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Write:
    """A write that waits, and the driver it is by, None if a request or a watcher asked for it."""

    entry: _Entry
    driver: Driver | None

    @property
    def name(self) -> str:
        """Which write it is, such as `RunStore.decide`."""
        return self.entry.job.__qualname__.partition(".<locals>")[0]


class Auditor(Protocol):
    """Whoever looks at each commit."""

    def is_stale(self, write: Write) -> bool:
        """Tell whether a write is by a driver that has lost its run, so that it must change nothing."""
        ...

    def commit(self, writes: list[Write], commit: Callable[[], None]) -> None:
        """Call `commit`, and look at what that did."""
        ...


class SteppedWriter(Writer):
    """Commits as the real one does, in groups, but not on a thread. When `dead`, what waits is lost."""

    def __init__(self, engine: Engine, auditor: Auditor) -> None:
        super().__init__(engine)
        self._waiting: deque[Write] = deque()
        self._auditor = auditor
        self.dead = False

    def submit(self, job: Callable[[Connection], T], key: str = "") -> Future[T]:
        future: Future[T] = Awaited(self.commit)
        if not self.dead:
            self._waiting.append(Write(_Entry(key, job, future), DRIVING.get()))
        return future

    def commit(self, limit: int | None = None) -> bool:
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
            self._auditor.commit(wanted, lambda: self._commit([write.entry for write in wanted]))
