"""The dispatcher for many hosts: owners have heartbeats on Postgres, and Procrastinate brings their runs to others.

The process that accepted a run drives it, so that a start costs no detour. What counts is the run's row: its owner and
its epoch. All else (notifications, jobs) only makes haste, and a slow look at the journal stands behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Sequence

from bf_plugin.dispatch.census import Census
from bf_plugin.dispatch.drives import Drives
from bf_plugin.dispatch.jobs import Jobs
from bf_plugin.dispatch.watcher import Watcher
from bf_plugin.errors import JournalError
from bf_plugin.journal.owners import OwnerRow
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.writer import written
from bf_plugin.run.driver import Parts
from bf_plugin.runtime.loop import LoopThread, settled

_TICK = 0.2
_POLL = 1.0
"""Seconds between looks at the journal when no signal comes, or none can."""

_TURN = 1.0
"""Seconds by which the second process waits longer than the first to offer an orphaned run, and so on."""

_OFFER_AGAIN = 5.0
_LEAVE_PATIENCE = 5.0


class ProcrastinateDispatcher(Drives):
    """Drives runs on the loop of this process, and goes on with those of processes that left or fell silent.

    `home` names the host app that takes this process's messages: runs delivered in-process are only taken by processes
    of the same name. It is part of the owner's name, so that it is known as long as the run is.
    """

    def __init__(self, loop: LoopThread, parts: Parts, database: PostgresServer, home: str | None) -> None:
        tag = "" if home is None else "@" + hashlib.sha256(home.encode()).hexdigest()[:8]
        super().__init__(loop, parts, f"{os.getpid()}-{socket.gethostname()[:60]}-{secrets.token_hex(4)}{tag}")
        self._owners = parts.journal.owners
        self._settings = parts.settings
        self._listener = database.listen()
        self._jobs = Jobs(database.conninfo, f"runs{tag}", self._take)
        self._census = Census(parts.settings.heartbeat_timeout)
        self._due: dict[tuple[str, int], float] = {}
        self._looked = 0.0
        self._everybody = self._deaf = False
        every = min(0.5, parts.settings.heartbeat_timeout / 4)
        self._watcher = Watcher(
            news=self._news, look=self._look_around, sweep=self._sweep, tick=lambda: 0.0, every=every
        )

    def start(self) -> None:
        """Put this process on record, and watch the others."""
        self._jobs.install()
        written(self._owners.beat(self.owner))
        self._loop.call(self._begin)
        self._watcher.start()

    def close(self) -> None:
        """Stop driving and give up ownership: the others are told, and take the runs at once."""
        if self._closed:
            return
        self._watcher.close()
        super().close()
        try:
            written(self._owners.leave(self.owner), _LEAVE_PATIENCE)
        except JournalError as error:
            self._log.warning("the others find out by themselves that this process ends: %s", error)
        self._listener.close()

    # on the loop

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks["heartbeat"] = loop.create_task(self._beat())
        self._tasks["jobs"] = loop.create_task(self._jobs.run())

    async def _beat(self) -> None:
        """Show that this loop turns and that the journal can be written from here: what drivers need."""
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            try:
                await settled(self._owners.beat(self.owner))
            except Exception as error:  # the next one may work; without any, others take the runs
                self._log.error("no heartbeat: %s", error)

    async def _take(self, run_id: str, epoch: int) -> None:
        """Take a run that was offered, unless another process was faster."""
        await asyncio.to_thread(self._take_over, (run_id, epoch))

    # on the watcher's thread

    def _news(self) -> bool:
        names = self._listen()
        self._everybody = "" in names
        if not names & {"", self.owner} and time.monotonic() - self._looked < _POLL:
            return False
        self._looked = time.monotonic()
        return True

    def _listen(self) -> set[str]:
        try:
            names, self._deaf = self._listener.wait(_TICK), False
        except JournalError as error:
            if not self._deaf:
                self._log.error("%s; polling until it is back", error)
            self._deaf = True
            time.sleep(_TICK)
            return set()
        return names

    def _look_around(self) -> None:
        self._look()
        if self._everybody:
            self._sweep()

    def _sweep(self) -> None:
        """Offer the runs of processes that are gone; normally one process does, the others stand by."""
        self._drop_ended()
        rows = self._owners.all()
        gone = self._census.gone(rows) - {self.owner}
        orphans = self._owners.runs_of(gone)
        now, turn, known = time.monotonic(), self._turn(rows, gone), {row.id for row in rows}
        due: dict[tuple[str, int], float] = {}
        for run_id, epoch, owner in orphans:
            if self._is_at_home(owner):
                # One that is not on record may be about to say that it lives.
                patience = turn if owner in known else turn + self._settings.heartbeat_timeout
                due[run_id, epoch] = self._due.get((run_id, epoch), now + patience)
        self._due = due
        for orphan, when in due.items():
            if when <= now and orphan[0] not in self._unreadable:
                due[orphan] = now + _OFFER_AGAIN
                self._loop.run(self._jobs.defer(*orphan))
        if empty := gone - {owner for _, _, owner in orphans}:
            written(self._owners.forget(empty))

    def _turn(self, rows: Sequence[OwnerRow], gone: set[str]) -> float:
        """Return for how long this process lets those before it offer a run."""
        others = sorted(row.id for row in rows if self._is_at_home(row.id) and row.id not in gone)
        return others.index(self.owner) * _TURN if self.owner in others else _TURN

    def _is_at_home(self, owner: str | None) -> bool:
        return _home(owner or "") == _home(self.owner)

    def _take_unended(self, run_id: str) -> None:
        record = self._parts.journal.runs.find(run_id)
        if record is not None and self._is_at_home(record.owner):
            super()._take_unended(run_id)


def _home(owner: str) -> str:
    return owner.partition("@")[2]
