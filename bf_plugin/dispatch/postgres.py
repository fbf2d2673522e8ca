"""The dispatcher for many hosts: owners have heartbeats on Postgres, and Procrastinate brings their runs to others.

The process that accepted a run drives it, so that a start costs no detour. What counts is the run's row: its owner and
its epoch. Notifications and jobs only save time; a look at the journal now and then does without them.

A job says "run R has no driver in epoch E". It is done when some process has R under the next epoch. So jobs may be
lost, doubled or late, and Procrastinate's tables can be thrown away: each of its releases has a Postgres schema of its
own here and needs no migration.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import AlreadyEnqueued, ProcrastinateException
from procrastinate.schema import SchemaManager

from bf_plugin.dispatch.port import Dispatcher
from bf_plugin.errors import JournalError
from bf_plugin.journal.owners import OwnerRow
from bf_plugin.journal.postgres import PostgresServer
from bf_plugin.journal.writer import written
from bf_plugin.run.driver import Parts
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import LoopThread, settled

_TICK = 0.2
_POLL = 1.0
"""Seconds between looks at the journal when no signal comes, or none can."""

_TURN = 1.0
"""Seconds by which the second process waits longer than the first to offer an orphaned run, and so on."""

_OFFER_AGAIN = 5.0
_LEAVE_TIMEOUT = 5.0

CONCURRENCY = 4
"""Jobs one process works on at once: few, so that the runs of a dead process are spread over the living."""

_FETCH = 5.0
_STALLED = 30.0
_AGAIN = 1.0
_LOCK = 0x62665F6A6F6273


class PostgresDispatcher(Dispatcher):
    """Drives runs on the loop of this process, and continues those of processes that left or fell silent.

    `home` names the host app that takes this process's messages: runs delivered in-process are only taken by processes
    of the same name. It is part of the owner's name, so that it is known as long as the run is.
    """

    def __init__(self, loop: LoopThread, parts: Parts, database: PostgresServer, home: str | None) -> None:
        tag = "" if home is None else "@" + hashlib.sha256(home.encode()).hexdigest()[:8]
        owner = f"{os.getpid()}-{socket.gethostname()[:60]}-{secrets.token_hex(4)}{tag}"
        super().__init__(loop, parts, owner, every=min(0.5, parts.settings.heartbeat_timeout / 4))
        self._owners = parts.journal.owners
        self._settings = parts.settings
        self._listener = database.listen()
        self._conninfo = database.conninfo
        self._jobs = Jobs(database.conninfo, f"runs{tag}", self._take)
        self._census = Census(parts.settings.heartbeat_timeout)
        self._due: dict[tuple[str, int], float] = {}
        self._looked = 0.0
        self._everybody = self._deaf = False

    def _enter(self) -> None:
        install(self._conninfo)
        written(self._owners.beat(self.owner))
        self._loop.call(self._begin)

    def _leave(self) -> None:
        """Tell the others, which take the runs at once."""
        try:
            written(self._owners.leave(self.owner), _LEAVE_TIMEOUT)
        except JournalError as error:
            self._log.warning("cannot tell the other processes that this one ends; they will find out: %s", error)
        self._listener.close()

    # on the loop

    def _begin(self) -> None:
        self._keep(self._beat())
        self._keep(self._jobs.run())

    async def _beat(self) -> None:
        """Show that this loop turns and that the journal can be written from here: what drivers need."""
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            try:
                await settled(self._owners.beat(self.owner))
            except Exception as error:  # the next one may work; without any, others take the runs
                self._log.error("cannot record the heartbeat of this process: %s", error)

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

    def _look(self) -> None:
        super()._look()
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
                wait = turn if owner in known else turn + self._settings.heartbeat_timeout
                due[run_id, epoch] = self._due.get((run_id, epoch), now + wait)
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
        record = self._runs.find(run_id)
        if record is not None and self._is_at_home(record.owner):
            super()._take_unended(run_id)


class Census:
    """Tells who is gone: a process whose heartbeat has not changed for `timeout` seconds of watching.

    So nobody's clock is compared with another's. Time in which this process did not look (it was frozen, or the
    database was away) does not count: then it has missed everybody's heartbeats.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}
        self._looked = clock()

    def gone(self, rows: Sequence[OwnerRow]) -> set[str]:
        """Return the processes among `rows` that have left, or are silent for too long."""
        now = self._clock()
        if now - self._looked > self._timeout / 2:
            self._seen = {}
        self._looked = now
        known = ((row, self._seen.get(row.id)) for row in rows)
        self._seen = {row.id: seen if seen and seen[0] == row.beat_at else (row.beat_at, now) for row, seen in known}
        return {row.id for row in rows if row.left or now - self._seen[row.id][1] >= self._timeout}


class Jobs:
    """The queue. `take(run_id, epoch)` takes a run over; `run` is a task on the loop that works the queue off."""

    def __init__(self, conninfo: str, queue: str, take: Callable[[str, int], Awaitable[None]]) -> None:
        self._queue = queue
        connector = procrastinate.PsycopgConnector(
            conninfo=conninfo, min_size=1, max_size=3, kwargs={"options": f"-c search_path={_schema()}"}
        )
        self._app = procrastinate.App(connector=connector)
        self._task: Any = self._app.task(name="take_over")(take)
        self._log = get_logger(__name__)

    async def defer(self, run_id: str, epoch: int) -> None:
        """Offer a run to all processes, once for each epoch."""
        job = self._task.configure(queue=self._queue, queueing_lock=f"{run_id}:{epoch}")
        try:
            await job.defer_async(run_id=run_id, epoch=epoch)
        except AlreadyEnqueued:
            pass
        except ProcrastinateException as error:  # it is offered again
            self._log.bind(run_id=run_id).warning("cannot offer the run to others; retrying: %s", _reason(error))

    async def run(self) -> None:
        """Work the queue off, through restarts of the server, until cancelled."""
        while True:
            try:
                async with self._app.open_async():
                    await self._work()
            except Exception as error:  # Procrastinate's worker gives up when its connection is lost
                self._log.warning("cannot work off the queue of runs; retrying: %s", _reason(error))
            await asyncio.sleep(_AGAIN)

    async def _work(self) -> None:
        clearing = asyncio.ensure_future(self._keep_clear())
        try:
            await self._app.run_worker_async(
                queues=[self._queue],
                concurrency=CONCURRENCY,
                install_signal_handlers=False,
                fetch_job_polling_interval=_FETCH,
                shutdown_graceful_timeout=1.0,
                delete_jobs="always",
            )
        finally:
            clearing.cancel()

    async def _keep_clear(self) -> None:
        while True:
            await asyncio.sleep(_STALLED)
            try:
                await self.clear(_STALLED)
            except ProcrastinateException as error:
                self._log.warning("cannot remove lost jobs; retrying: %s", _reason(error))

    async def clear(self, seconds: float) -> None:
        """Remove jobs whose worker is silent for `seconds`: the runs they were about are offered again."""
        manager = self._app.job_manager
        for job in await manager.get_stalled_jobs(queue=self._queue, seconds_since_heartbeat=seconds):
            await manager.finish_job(job, procrastinate.jobs.Status.ABORTED, delete_job=True)


def install(conninfo: str, *, keep: bool = True) -> None:
    """Make Procrastinate's tables where they are missing; without `keep` that is tried and undone.

    Raises JournalError.
    """
    schema = _schema()
    try:
        with psycopg.connect(conninfo, connect_timeout=5) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if connection.execute("SELECT to_regnamespace(%s)", [schema]).fetchone() == (None,):
                connection.execute(f"CREATE SCHEMA {schema}".encode())
                connection.execute(f"SET LOCAL search_path TO {schema}".encode())
                connection.execute(SchemaManager.get_schema())
            if not keep:
                connection.rollback()
    except psycopg.Error as error:
        raise JournalError(
            f"cannot make the schema {schema}: {_reason(error)}; grant CREATE on the database to its user"
        ) from None


def _schema() -> str:
    return "bf_jobs_" + re.sub(r"\W", "_", version("procrastinate"))


def _reason(error: BaseException) -> str:
    return next(iter(str(error.__cause__ or error).splitlines()), "") or type(error).__name__


def _home(owner: str) -> str:
    return owner.partition("@")[2]
