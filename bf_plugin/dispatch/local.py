"""The embedded dispatcher: the process that accepted a run drives it; its siblings on the host take over if it dies."""

from __future__ import annotations

import asyncio

from bf_plugin.dispatch.owner import Owner
from bf_plugin.dispatch.watcher import Watcher
from bf_plugin.driver import Drive, Parts
from bf_plugin.endings import refusal
from bf_plugin.journal import RunRecord
from bf_plugin.journal.records import Decision
from bf_plugin.logs import get_logger
from bf_plugin.loop import LoopThread
from bf_plugin.tickets import Ticket
from bf_plugin.values import StopReason

STOP_PATIENCE = 1.0
"""Seconds the driver of a stopped run has to end it, until the stopping process takes the run over."""


class LocalDispatcher:
    """Drives runs on the loop of this process, and goes on with those that another process left."""

    def __init__(self, loop: LoopThread, parts: Parts, owner: Owner) -> None:
        self._loop = loop
        self._parts = parts
        self._owner = owner
        self.owner = owner.id
        self._drives: dict[str, Drive] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._apps: dict[str, str] = {}
        self._watcher = Watcher(version=parts.journal.data_version, look=self._look, sweep=self._sweep)
        self._log = get_logger(__name__)

    def start(self) -> None:
        """Take over what dead processes left, and watch for more."""
        self._sweep()
        self._watcher.start()

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
        if record.state != "queued":
            self._loop.call(self._start, record)

    def stop(self, record: RunRecord, decision: Decision, reason: StopReason) -> None:
        """Wake the driver of a run whose outcome is decided; if it does not end the run in time, do that here."""
        self._loop.call(self._stop, record, decision, reason)

    def answered(self, run_id: str, tool_call_id: str) -> None:
        """Wake the driver of a run: a page answered a tool call."""
        self._loop.call(self._answered, run_id, tool_call_id)

    def close(self) -> None:
        """Stop driving and give up ownership: what is on record is another process's to go on with."""
        self._watcher.close()
        self._loop.run(self._cancel_all()).result(timeout=10)
        self._owner.release()

    # on the watcher's thread

    def _look(self) -> None:
        """See what other processes did to the runs of this one: decided, answered a page's call, freed a thread."""
        journal = self._parts.journal
        for run_id, decision in journal.runs.decided(self.owner):
            self._loop.call(self._signal, run_id, decision)
        for run_id, tool_call_id in journal.steps.answered(self.owner):
            self.answered(run_id, tool_call_id)
        for run_id in journal.runs.starting(self.owner):
            if run_id not in self._drives and (record := journal.runs.find(run_id)) is not None:
                self._loop.call(self._start, record)

    def _sweep(self) -> None:
        """Take over the runs of dead processes."""
        runs = self._parts.journal.runs
        for run_id, epoch, owner in runs.under_way():
            if owner is None or not self._owner.is_alive(owner):
                self._take_over(run_id, epoch)

    def _take_over(self, run_id: str, epoch: int) -> None:
        record = self._parts.journal.runs.adopt(run_id, epoch, self.owner).result(30)
        if record is not None and (record.state != "queued" or record.outcome is not None):
            self._log.bind(run_id=run_id).warning("taken over from a process that is gone or does not answer")
            self._loop.call(self._start, record, True)

    # on the loop

    def _start(self, record: RunRecord, resumed: bool = False) -> None:
        if record.id in self._drives:
            return  # a queued run can be stopped and promoted at once
        ticket = self._tickets.setdefault(record.id, Ticket())
        self._apps.setdefault(record.id, record.app)
        if resumed:
            ticket.accept()  # its start was answered by the process that is gone: it cannot be refused any more
        if resumed or not record.spec.channels:
            ticket.release()
        try:
            drive = Drive(record, self._parts, ticket=ticket, promoted=self._promote, resumed=resumed)
        except Exception as error:
            self._log.bind(run_id=record.id).error("cannot be driven: %s", error, error=error)
            ticket.fail(refusal(error, operator_key=False))
            self._ended(record.id)
            return
        ticket.released.add_done_callback(lambda _: self._loop.call(drive.release))
        self._drives[record.id] = drive
        task = asyncio.get_running_loop().create_task(drive.run())
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._ended(record.id))

    def _promote(self, record: RunRecord) -> None:
        """Drive a run that has come up, if it was accepted here; another process sees it by itself."""
        if record.owner == self.owner:
            self._start(record)

    def _ended(self, run_id: str) -> None:
        for register in (self._drives, self._tasks, self._tickets, self._apps):
            register.pop(run_id, None)

    def _signal(self, run_id: str, decision: Decision) -> None:
        if drive := self._drives.get(run_id):
            drive.stop(decision, "stop")

    def _stop(self, record: RunRecord, decision: Decision, reason: StopReason) -> None:
        if drive := self._drives.get(record.id):
            drive.stop(decision, reason)
        elif record.state == "queued":
            self._start(record)
            self._signal(record.id, decision)
        else:
            task = asyncio.ensure_future(self._see_to_end(record.id))
            self._tasks[f"stop {record.id}"] = task
            task.add_done_callback(lambda _: self._tasks.pop(f"stop {record.id}", None))

    async def _see_to_end(self, run_id: str) -> None:
        """Take over a stopped run whose driver, in another process, does not end it."""
        await asyncio.sleep(STOP_PATIENCE)
        await asyncio.to_thread(self._take_unended, run_id)

    def _take_unended(self, run_id: str) -> None:
        record = self._parts.journal.runs.find(run_id)
        if record is not None and record.state != "ended" and not self._parts.journal.log.has_end(run_id):
            self._take_over(run_id, record.epoch)

    def _answered(self, run_id: str, tool_call_id: str) -> None:
        if drive := self._drives.get(run_id):
            drive.answered(tool_call_id)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
