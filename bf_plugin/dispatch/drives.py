"""The runs that this process drives, and those it is about to: what all dispatchers share."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as FutureTimeoutError

from bf_plugin.errors import JournalError, RequestError
from bf_plugin.journal import Ending, RunRecord
from bf_plugin.journal.states import ENDED, QUEUED
from bf_plugin.journal.vault import Unreadable
from bf_plugin.run.driver import Drive, Parts
from bf_plugin.run.ending import request_error
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.values import StopReason

STOP_PATIENCE = 1.0
"""Seconds the driver of a stopped run has to end it, until the stopping process takes the run over."""

_RELEASE_PATIENCE = 1.0
"""Seconds, once it is decided what a start is answered, until events go even if nobody said that it was answered.

Servers call `close()` of an answer they have sent (PEP 3333); a middleware around us may lose the call.
"""

_CLOSE_PATIENCE = 5.0
_ADOPT_PATIENCE = 30.0


class Drives:
    """A dispatcher but for how it finds runs that nobody drives: starts drivers, brings them signals, stops them all.

    `owner` is this process's name in the journal: a run that another process drives is taken over by putting its own
    there, under the next epoch. Subclasses add `start` and what it watches, and extend `close`.
    """

    def __init__(self, loop: LoopThread, parts: Parts, owner: str) -> None:
        self._loop = loop
        self._parts = parts
        self.owner = owner
        self._drives: dict[str, Drive] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tickets: dict[str, Ticket] = {}
        self._apps: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._closed = self._complained = False
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
        if record.state != QUEUED and not self._loop.call(self._start, record):
            self._ended(record.id)

    def stop(self, record: RunRecord, ending: Ending, reason: StopReason) -> None:
        """Wake the driver of a run whose outcome is decided; if it does not end the run in time, do that here."""
        self._loop.call(self._stop, record, ending, reason)

    def answered(self, run_id: str, tool_call_id: str) -> None:
        """Wake the driver of a run: a page answered a tool call."""
        self._loop.call(self._answered, run_id, tool_call_id)

    def close(self) -> None:
        """Stop driving: what is on record is another process's to go on with, once ownership is given up."""
        self._closed = True
        try:
            self._loop.run(self._cancel_all()).result(timeout=2 * _CLOSE_PATIENCE)
        except FutureTimeoutError:
            self._log.error("the event loop hangs: its runs are left as they are")
        for run_id in list(self._tickets):
            self._ended(run_id)

    # on a watcher's thread

    def _look(self) -> None:
        """See what other processes did to the runs of this one: decided, answered a page's call, freed a thread."""
        journal = self._parts.journal
        for run_id, ending in journal.runs.endings(self.owner):
            self._loop.call(self._signal, run_id, ending)
        for run_id, tool_call_id in journal.steps.answered(self.owner):
            self.answered(run_id, tool_call_id)
        for run_id in journal.runs.starting(self.owner):
            if run_id not in self._drives and (record := journal.runs.find(run_id)) is not None:
                self._loop.call(self._start, record)

    def _drop_ended(self) -> None:
        """Forget runs that queued here and that another process stopped or took."""
        for run_id in [run_id for run_id in list(self._apps) if run_id not in self._drives]:
            if self._parts.journal.overview.state(run_id) == ENDED:
                self._loop.call(self._ended, run_id)

    def _take_over(self, *orphans: tuple[str, int]) -> None:
        """Take runs over, given with their epochs; all at once, so that they are committed together."""
        if self._closed:
            return
        adopt = self._parts.journal.runs.adopt
        for run_id, adopted in [(run_id, adopt(run_id, epoch, self.owner)) for run_id, epoch in orphans]:
            try:
                self._adopted(run_id, adopted.result(_ADOPT_PATIENCE))
            except Unreadable as error:  # after a change of keys, say: it would be so again
                self._log.bind(run_id=run_id).error("its process is gone, and it cannot be taken over: %s", error)
                self._unreadable.add(run_id)
            except (JournalError, FutureTimeoutError) as error:
                self._complain(run_id, error)

    def _adopted(self, run_id: str, record: RunRecord | None) -> None:
        self._complained = False
        if record is not None and (record.state != QUEUED or record.outcome is not None):
            self._log.bind(run_id=run_id).warning("taken over from a process that is gone or does not answer")
            self._loop.call(self._start, record)

    def _complain(self, run_id: str, error: Exception) -> None:
        """Say that runs cannot be taken over, once for as long as that lasts: it is tried every now and then."""
        if not self._complained:
            reason = str(error) or "the journal is slow"
            self._log.bind(run_id=run_id).error("its process is gone, and it cannot be taken over yet: %s", reason)
        self._complained = True

    # on the loop

    def _start(self, record: RunRecord) -> None:
        if (former := self._drives.get(record.id)) is not None:
            if former.epoch >= record.epoch:
                return None  # a queued run can be stopped and promoted at once
            self._tasks[record.id].cancel()  # it was taken from us, and came back before its driver knew
        if self._closed:
            return self._ended(record.id)
        ticket = self._tickets.setdefault(record.id, _answered_elsewhere())
        self._apps.setdefault(record.id, record.app)
        if record.epoch > 1 or not record.spec.channels:
            ticket.release()
        try:
            drive = Drive(record, self._parts, ticket=ticket, promoted=self._promote)
        except Exception as error:
            self._log.bind(run_id=record.id).error("cannot be driven: %s", error, error=error)
            ticket.fail(request_error(error))
            return self._ended(record.id)
        ticket.released.add_done_callback(lambda _: self._loop.call(drive.release))
        ticket.when_answered(lambda: self._loop.call(self._release_soon, ticket))
        self._drives[record.id] = drive
        task = asyncio.get_running_loop().create_task(drive.run())
        self._tasks[record.id] = task
        task.add_done_callback(lambda _: self._driven(record.id, task))
        return None

    def _driven(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            self._ended(run_id)

    def _release_soon(self, ticket: Ticket) -> None:
        asyncio.get_running_loop().call_later(_RELEASE_PATIENCE, ticket.release)

    def _promote(self, record: RunRecord) -> None:
        """Drive a run that has come up, if it was accepted here; another process sees it by itself."""
        if record.owner == self.owner:
            self._start(record)

    def _ended(self, run_id: str) -> None:
        if ticket := self._tickets.get(run_id):
            ticket.fail(RequestError(503, "the gateway is shutting down: ask for the run later", retry_after=5))
        for register in (self._drives, self._tasks, self._tickets, self._apps):
            register.pop(run_id, None)

    def _signal(self, run_id: str, ending: Ending) -> None:
        if drive := self._drives.get(run_id):
            drive.stop(ending, "stop")

    def _stop(self, record: RunRecord, ending: Ending, reason: StopReason) -> None:
        if drive := self._drives.get(record.id):
            drive.stop(ending, reason)
        elif record.state == QUEUED and record.owner == self.owner:
            self._start(record)
            self._signal(record.id, ending)
        else:
            task = asyncio.ensure_future(self._see_to_end(record))
            self._tasks[f"stop {record.id}"] = task
            task.add_done_callback(lambda _: self._tasks.pop(f"stop {record.id}", None))

    async def _see_to_end(self, record: RunRecord) -> None:
        """Take over a stopped run that nobody drives yet, or whose driver, in another process, does not end it."""
        if record.state != QUEUED:
            await asyncio.sleep(STOP_PATIENCE)
        await asyncio.to_thread(self._take_unended, record.id)

    def _take_unended(self, run_id: str) -> None:
        record = self._parts.journal.runs.find(run_id)
        if record is not None and record.state != ENDED and not self._parts.journal.log.has_end(run_id):
            self._take_over((run_id, record.epoch))

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
