"""A journal's writer that commits when it is told to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine

from bf_plugin.journal.direct import Direct
from bf_plugin.journal.seals import Seal
from bf_plugin.journal.writer import Keyed, Writer, _Entry, _on_a_loop
from simulated.clock import Awaited
from simulated.driving import DRIVING, Driver

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Write:
    """A write that waits, and the drivers it is by: none if a request or a watcher asked for it."""

    entry: _Entry
    drivers: tuple[Driver, ...]

    @property
    def name(self) -> str:
        """Which write it is, such as `RunStore.decide`."""
        job: Any = self.entry.jobs[0].job
        return "Seal" if isinstance(job, Seal) else str(job.__qualname__).partition(".<locals>")[0]


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
        super().__init__(engine, wake)
        self._auditor = auditor

    def write(self, write: Write, work: Callable[[Connection], bool]) -> bool:
        """Commit `work`, which is a write's."""
        done: list[bool] = []
        refused: list[Exception] = []

        def attempt() -> None:
            try:
                done.append(self.commit(work, 1))
            except Exception as refusal:
                refused.append(refusal)

        self._auditor.commit([write], attempt)
        self.close()  # the other processes are to have the one connection
        if refused:
            raise refused[0]
        return done[0]


class SteppedWriter(Writer):
    """Commits as the real one does, in groups, but not on a thread. When `dead`, what waits is lost."""

    def __init__(
        self, engine: Engine, auditor: Auditor, wake: Callable[[Collection[str]], None], *, direct: bool
    ) -> None:
        super().__init__(engine, wake)
        self._waiting: deque[Write] = deque()
        self._auditor = auditor
        self._now = SteppedDirect(engine, auditor, wake) if direct else None
        self._doing: Write | None = None
        self.dead = False

    def at_once(self, work: Callable[[Connection], bool], writes: int) -> bool:
        if self._now is None or self._waiting or self.dead or not _on_a_loop():
            return False
        return self._now.write(self._doing or _sealing(cast("Any", work).args[0]), work)

    def submit_at_once(self, job: Callable[[Connection], T]) -> Future[T] | None:
        driver = DRIVING.get()
        self._doing = Write(_Entry([Keyed("", job)], Future(), alone=True), (driver,) if driver else ())
        try:
            return super().submit_at_once(job)
        finally:
            self._doing = None

    def submit(self, job: Callable[[Connection], T], key: str = "") -> Future[T]:
        future: Future[T] = Awaited(self.commit)
        driver = DRIVING.get()
        self._queue_up(_Entry([Keyed(key, job)], future, alone=True), (driver,) if driver else ())
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

    def _put(self, entry: _Entry) -> None:
        seals = [keyed.job for keyed in entry.jobs if isinstance(keyed.job, Seal)]
        self._queue_up(entry, tuple(Driver(seal.run_id, seal.epoch) for seal in seals))

    def _queue_up(self, entry: _Entry, drivers: tuple[Driver, ...]) -> None:
        if not self.dead:
            self._waiting.append(Write(entry, drivers))

    def _commit_together(self, writes: list[Write]) -> None:
        wanted = [write for write in writes if write.entry.future.set_running_or_notify_cancel()]
        if wanted:
            self._auditor.commit(wanted, lambda: self._commit([write.entry for write in wanted]))
            self._disconnect()  # the other processes are to have the one connection


def _sealing(seals: list[Seal]) -> Write:
    entry = _Entry([Keyed(seal.run_id, seal) for seal in seals], Future())
    return Write(entry, tuple(Driver(seal.run_id, seal.epoch) for seal in seals))
