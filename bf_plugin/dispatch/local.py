"""The embedded dispatcher: the process that accepted a run drives it; its siblings on the host continue if it dies."""

from __future__ import annotations

from bf_plugin.dispatch.owner import Owner
from bf_plugin.dispatch.port import Dispatcher
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.run.driver import Parts
from bf_plugin.runtime.loop import LoopThread

_TICK = 0.02
"""Seconds between two looks at this process's mark. A stop in another process is seen by so much later."""

_IDLE_TICK = 0.1
"""The same while this process drives nothing. A run stopped within this time of its start is stopped as late."""

_SWEEP = 0.5


class LocalDispatcher(Dispatcher):
    """Drives runs on the loop of this process, and continues those that another process of the host left."""

    def __init__(self, loop: LoopThread, parts: Parts, owner: Owner, database: SqliteFile) -> None:
        super().__init__(loop, parts, owner.id, every=_SWEEP)
        self._mark = owner
        database.owner = owner.id

    def _enter(self) -> None:
        self._sweep()
        self._mark.sweep()

    def _leave(self) -> None:
        self._mark.release()

    def _news(self) -> bool:
        return self._mark.was_touched()

    def _tick(self) -> float:
        return _TICK if self._held else _IDLE_TICK

    def _sweep(self) -> None:
        """Take over the runs of dead processes; see what one that died before it signalled did to our runs."""
        self._look()
        self._drop_ended()
        under_way = self._runs.under_way()
        dead = {owner for _, _, owner in under_way if owner is None or not self._mark.is_alive(owner)}
        orphans = [(run_id, epoch) for run_id, epoch, owner in under_way if owner in dead]
        self._take_over(*[orphan for orphan in orphans if orphan[0] not in self._unreadable])
