"""The embedded dispatcher: the process that accepted a run drives it, on its own loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as FutureTimeoutError

from bf_plugin.dispatch.owner import Owner
from bf_plugin.driver import Drive, Parts
from bf_plugin.endings import refusal
from bf_plugin.errors import RequestError
from bf_plugin.journal import RunRecord
from bf_plugin.journal.records import Decision
from bf_plugin.logs import get_logger
from bf_plugin.loop import LoopThread
from bf_plugin.tickets import Ticket
from bf_plugin.values import StopReason

_RELEASE_PATIENCE = 1.0
"""Seconds, once it is decided what a start is answered, until events go even if nobody said that it was answered.

Servers call `close()` of an answer they have sent (PEP 3333); a middleware around us may lose the call.
"""

_CLOSE_PATIENCE = 5.0


class LocalDispatcher:
    """Drives runs on the loop of this process, and at its start ends those that a dead process left."""

    def __init__(self, loop: LoopThread, parts: Parts, owner: Owner) -> None:
        self._loop = loop
        self._parts = parts
        self._owner = owner
        self.owner = owner.id
        self._drives: dict[str, Drive] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._apps: dict[str, str] = {}
        self._closed = False
        self._log = get_logger(__name__)

    def active(self, app: str | None = None) -> int:
        """Return how many runs this process drives or is about to, of one app or of all."""
        apps = list(self._apps.values())
        return len(apps) if app is None else apps.count(app)

    def expect(self, record: RunRecord, ticket: Ticket) -> None:
        """Remember who waits for a run, before it is on record."""
        self._tickets[record.id] = ticket
        self._apps[record.id] = record.app

    def forget(self, run_id: str) -> None:
        """Drop what `expect` remembered."""
        self._ended(run_id)

    def submit(self, record: RunRecord) -> None:
        """Drive a run that is `starting`; a `queued` one comes up when its thread is free, or when it is stopped."""
        if record.state != "queued" and not self._loop.call(self._start, record):
            self._ended(record.id)

    def stop(self, run_id: str, decision: Decision, reason: StopReason) -> None:
        """Wake the driver of a run whose outcome is decided."""
        self._loop.call(self._stop, run_id, decision, reason)

    def close_queued(self, record: RunRecord, decision: Decision) -> None:
        """Bring a queued run that was stopped to its end."""
        self._loop.call(self._close_queued, record, decision)

    def answered(self, run_id: str, tool_call_id: str) -> None:
        """Wake the driver of a run: a page answered a tool call."""
        self._loop.call(self._answered, run_id, tool_call_id)

    def recover(self) -> int:
        """End as failed the runs whose process is gone; return how many there are."""
        runs = self._parts.journal.runs
        orphans = [run for run in runs.under_way() if run[2] is None or not self._owner.is_alive(run[2])]
        for run_id, epoch, _ in orphans:
            log = self._log.bind(run_id=run_id)
            try:
                record = runs.adopt(run_id, epoch, self.owner).result()
            except Exception as error:  # one run that cannot be read, after a change of keys say, is not all of them
                log.error("its process is gone, and it cannot be ended: %s", error, error=error)
                continue
            if record is not None and (record.state != "queued" or record.outcome is not None):
                log.warning("its process is gone: the run is ended")
                self._loop.call(self._start, record, True)
        self._owner.sweep()
        return len(orphans)

    def close(self) -> None:
        """Stop driving and give up ownership: what is on record is another process's to end."""
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.run(self._cancel_all()).result(timeout=2 * _CLOSE_PATIENCE)
        except FutureTimeoutError:
            self._log.error("the event loop hangs: its runs are left as they are")
        for run_id in list(self._tickets):
            self._ended(run_id)
        self._owner.release()

    def _start(self, record: RunRecord, crashed: bool = False) -> None:
        if record.id in self._drives:
            return None  # a queued run can be stopped and promoted at once
        if self._closed:
            return self._ended(record.id)
        ticket = self._tickets.setdefault(record.id, _answered_elsewhere())
        self._apps.setdefault(record.id, record.app)
        if not record.spec.channels:
            ticket.release()
        try:
            drive = Drive(record, self._parts, ticket=ticket, promoted=self._start, crashed=crashed)
        except Exception as error:
            self._log.bind(run_id=record.id).error("cannot be driven: %s", error, error=error)
            ticket.fail(refusal(error, operator_key=False))
            return self._ended(record.id)
        ticket.released.add_done_callback(lambda _: self._loop.call(drive.release))
        ticket.when_answered(lambda: self._loop.call(self._release_soon, ticket))
        self._drives[record.id] = drive
        task = asyncio.get_running_loop().create_task(drive.run())
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._ended(record.id))
        return None

    def _release_soon(self, ticket: Ticket) -> None:
        asyncio.get_running_loop().call_later(_RELEASE_PATIENCE, ticket.release)

    def _ended(self, run_id: str) -> None:
        if ticket := self._tickets.get(run_id):
            ticket.fail(RequestError(503, "the gateway is shutting down: ask for the run later", retry_after=5))
        for register in (self._drives, self._tasks, self._tickets, self._apps):
            register.pop(run_id, None)

    def _stop(self, run_id: str, decision: Decision, reason: StopReason) -> None:
        if drive := self._drives.get(run_id):
            drive.stop(decision, reason)

    def _close_queued(self, record: RunRecord, decision: Decision) -> None:
        self._start(record)
        self._stop(record.id, decision, "stop")

    def _answered(self, run_id: str, tool_call_id: str) -> None:
        if drive := self._drives.get(run_id):
            drive.answered(tool_call_id)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_PATIENCE)


def _answered_elsewhere() -> Ticket:
    """Return the ticket of a run whose start no request of this process waits for: it cannot be refused any more."""
    ticket = Ticket()
    ticket.accept()
    ticket.release()
    return ticket
