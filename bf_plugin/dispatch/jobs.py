"""Procrastinate's part: a queue of runs to be taken over, from which the processes that have room serve themselves.

A job says "run R has no driver in epoch E" and is done when somebody has R under the next epoch. It is not what keeps a
run alive: that is the run's row. So jobs may be lost, doubled or late, and Procrastinate's tables can be thrown away:
each of its releases has a Postgres schema of its own here and needs no migration.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import procrastinate
import psycopg
from procrastinate.exceptions import AlreadyEnqueued, ProcrastinateException
from procrastinate.schema import SchemaManager

from bf_plugin.errors import JournalError
from bf_plugin.runtime.logs import get_logger

CONCURRENCY = 4
"""Jobs one process works on at once: few, so that the runs of a dead process are spread over the living."""

_POLL = 5.0
_STALLED = 30.0
_AGAIN = 1.0
_LOCK = 0x62665F6A6F6273


class Jobs:
    """The queue. `take(run_id, epoch)` takes a run over; `run` is a task on the loop that works the queue off."""

    def __init__(self, conninfo: str, queue: str, take: Callable[[str, int], Awaitable[None]]) -> None:
        self._conninfo = conninfo
        self._queue = queue
        connector = procrastinate.PsycopgConnector(
            conninfo=conninfo, min_size=1, max_size=3, kwargs={"options": f"-c search_path={_schema()}"}
        )
        self._app = procrastinate.App(connector=connector)
        self._task: Any = self._app.task(name="take_over")(take)
        self._log = get_logger(__name__)

    def install(self) -> None:
        """Make Procrastinate's tables where they are missing. Raises JournalError."""
        install(self._conninfo)

    async def defer(self, run_id: str, epoch: int) -> None:
        """Offer a run to all processes, once for each epoch."""
        job = self._task.configure(queue=self._queue, queueing_lock=f"{run_id}:{epoch}")
        try:
            await job.defer_async(run_id=run_id, epoch=epoch)
        except AlreadyEnqueued:
            pass
        except ProcrastinateException as error:  # it is offered again
            self._log.bind(run_id=run_id).warning("cannot be offered to other processes: %s", _reason(error))

    async def run(self) -> None:
        """Work the queue off, through restarts of the server, until cancelled."""
        while True:
            try:
                async with self._app.open_async():
                    await self._work()
            except Exception as error:  # Procrastinate's worker gives up when its connection is lost
                self._log.warning("the queue of runs is away: %s", _reason(error))
            await asyncio.sleep(_AGAIN)

    async def _work(self) -> None:
        clearing = asyncio.ensure_future(self._keep_clear())
        try:
            await self._app.run_worker_async(
                queues=[self._queue],
                concurrency=CONCURRENCY,
                install_signal_handlers=False,
                fetch_job_polling_interval=_POLL,
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
                self._log.warning("lost jobs stay where they are for now: %s", _reason(error))

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
