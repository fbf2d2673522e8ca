"""The port between the use cases and whatever decides which process drives a run, with what all dispatchers share."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from bf_plugin.errors import BFError, JournalError, RequestError
from bf_plugin.journal import Ending, RunRecord
from bf_plugin.journal.states import ENDED, QUEUED
from bf_plugin.journal.vault import Unreadable
from bf_plugin.run.driver import Drive, Parts
from bf_plugin.run.ending import request_error
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.values import StopReason

_STOP_TIMEOUT = 1.0
"""Seconds the driver of a stopped run has to end it, until the stopping process takes the run over."""

_RELEASE_TIMEOUT = 1.0
"""Seconds from the decision about a start's answer until events go, even if no server said that it sent the answer.

Servers call `close()` of an answer they have sent (PEP 3333); a middleware around us may lose the call.
"""

_CLOSE_TIMEOUT = 5.0
_ADOPT_TIMEOUT = 30.0


@dataclass(slots=True)
class _Held:
    """A run that this process drives or is about to: its app, who waits for it, and its driver once there is one."""

    app: str
    ticket: Ticket
    drive: Drive | None = None
    task: asyncio.Task[None] | None = None


class Dispatcher(ABC):
    """Starts drivers, brings them signals, stops them all. Use cases call it from any thread.

    `owner` is this process's name in the journal. A process takes over a run that another one drives by putting its own
    name there, under the next epoch. Subclasses tell when there is news from other processes, and find the runs that
    nobody drives: a thread asks them, and calls `_sweep` every `every` seconds.
    """

    def __init__(self, loop: LoopThread, parts: Parts, owner: str, *, every: float) -> None:
        self.owner = owner
        self._every = every
        self._watcher = threading.Thread(target=self._watch, name="bf-watch", daemon=True)
        self._leaving = threading.Event()
        self._loop = loop
        self._parts = parts
        self._runs = parts.journal.runs
        self._steps = parts.journal.steps
        self._messages = parts.journal.log
        self._overview = parts.journal.overview
        self._held: dict[str, _Held] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._unreadable: set[str] = set()
        self._closed = self._complained = False
        self._log = get_logger(__name__)

    def start(self) -> None:
        """Take over what dead processes left, and watch for more. Called once, when all else is up."""
        self._enter()
        self._watcher.start()

    def active(self, app: str | None = None) -> int:
        """Return how many runs this process drives or is about to, of one app or of all."""
        return sum(app in (None, held.app) for held in list(self._held.values()))

    def expect(self, record: RunRecord, ticket: Ticket) -> None:
        """Remember who waits for a run, before it is on record."""
        self._held[record.id] = _Held(record.app, ticket)

    def forget(self, run_id: str) -> None:
        """Drop a run: it was not accepted, has ended, or is another process's."""
        if (held := self._held.pop(run_id, None)) is not None:
            held.ticket.fail(RequestError(503, "the gateway is shutting down: ask for the run later", retry_after=5))

    def submit(self, record: RunRecord) -> None:
        """Drive a run that is `starting`; a `queued` one is driven once its thread is free, or once it is stopped."""
        if record.state != QUEUED and not self._loop.call(self._start, record):
            self.forget(record.id)

    def stop(self, record: RunRecord, ending: Ending, reason: StopReason) -> None:
        """Wake the driver of a run that has an outcome; if it does not end the run in time, do that here."""
        self._loop.call(self._stop, record, ending, reason)

    def answered(self, run_id: str, tool_call_id: str) -> None:
        """Wake the driver of a run: a page answered a tool call."""
        self._loop.call(self._answered, run_id, tool_call_id)

    def close(self) -> None:
        """Stop driving and give up ownership: other processes go on with what is on record."""
        if self._closed:
            return
        self._leaving.set()
        if self._watcher.is_alive():
            self._watcher.join(timeout=2 * _CLOSE_TIMEOUT)
        self._closed = True
        try:
            self._loop.run(self._cancel_all()).result(timeout=2 * _CLOSE_TIMEOUT)
        except FutureTimeoutError:
            self._log.error("the event loop hangs; leaving its runs to other processes")
        for run_id in list(self._held):
            self.forget(run_id)
        self._leave()

    # what each dispatcher does in its own way

    @abstractmethod
    def _enter(self) -> None:
        """Make this process known to the others."""

    @abstractmethod
    def _leave(self) -> None:
        """Give up ownership of what this process drove."""

    @abstractmethod
    def _news(self) -> bool:
        """Tell whether another process has written. May wait for it; if not, it is asked again after `_tick()` s."""

    def _tick(self) -> float:
        return 0.0

    @abstractmethod
    def _sweep(self) -> None:
        """See to the runs of dead processes."""

    # on the watcher's thread

    def _watch(self) -> None:
        swept, failing = time.monotonic(), False
        while not self._leaving.wait(self._tick()):
            try:
                if self._news():
                    self._look()
                if time.monotonic() - swept >= self._every:
                    self._sweep()
                    swept = time.monotonic()
                failing = False
            except Exception as error:  # without this thread, stops and tool answers would come late for good
                if not failing:
                    known = isinstance(error, BFError)
                    self._log.error("cannot watch the journal; retrying: %s", error, error=None if known else error)
                failing = True
                self._leaving.wait(self._every)

    def _look(self) -> None:
        """See what other processes did to the runs of this one: ended, answered a page's call, freed a thread."""
        for run_id, ending in self._runs.endings(self.owner):
            self._loop.call(self._signal, run_id, ending, "stop")
        for run_id, tool_call_id in self._steps.answered(self.owner):
            self.answered(run_id, tool_call_id)
        for run_id in self._runs.starting(self.owner):
            if self._driver(run_id) is None and (record := self._runs.find(run_id)) is not None:
                self._loop.call(self._start, record)

    def _drop_ended(self) -> None:
        """Forget runs that queued here and that another process stopped or took."""
        for run_id in list(self._held):
            if self._driver(run_id) is None and self._overview.state(run_id) == ENDED:
                self._loop.call(self.forget, run_id)

    def _take_over(self, *orphans: tuple[str, int]) -> None:
        """Take runs over, given with their epochs; all at once, so that they are committed together."""
        if self._closed:
            return
        adopting = [(run_id, self._runs.adopt(run_id, epoch, self.owner)) for run_id, epoch in orphans]
        for run_id, adopted in adopting:
            log = self._log.bind(run_id=run_id)
            try:
                record = adopted.result(_ADOPT_TIMEOUT)
            except Unreadable as error:  # after a change of keys, say: it would be so again
                log.error("its process is gone, and this one cannot take it over: %s", error)
                self._unreadable.add(run_id)
            except (JournalError, FutureTimeoutError) as error:
                if not self._complained:  # once for as long as that lasts: it is tried every now and then
                    reason = str(error) or "the journal is slow"
                    log.error("its process is gone, and this one cannot take it over yet: %s", reason)
                self._complained = True
            else:
                self._complained = False
                if record is not None and (record.state != QUEUED or record.outcome is not None):
                    log.warning("took the run over from a process that is gone or does not answer")
                    self._loop.call(self._start, record)

    def _take_unended(self, run_id: str) -> None:
        record = self._runs.find(run_id)
        if record is not None and record.state != ENDED and not self._messages.has_end(run_id):
            self._take_over((run_id, record.epoch))

    # on the loop

    def _driver(self, run_id: str) -> Drive | None:
        held = self._held.get(run_id)
        return None if held is None else held.drive

    def _start(self, record: RunRecord) -> None:
        held = self._held.get(record.id)
        if held is not None and held.drive is not None and held.task is not None:
            if held.drive.epoch >= record.epoch:
                return None  # a queued run can be stopped and promoted at once
            held.task.cancel()  # it was taken from us, and came back before its driver knew
        if self._closed:
            return self.forget(record.id)
        if held is None:
            held = self._held[record.id] = _Held(record.app, _answered_elsewhere())
        ticket = held.ticket
        if record.epoch > 1 or not record.spec.channels:
            ticket.release()
        try:
            held.drive = drive = Drive(record, self._parts, ticket=ticket, promoted=self._promote)
        except Exception as error:
            self._log.bind(run_id=record.id).error("cannot drive the run: %s", error, error=error)
            ticket.fail(request_error(error))
            return self.forget(record.id)
        ticket.released.add_done_callback(lambda _: self._loop.call(drive.release))
        ticket.when_answered(lambda: self._loop.call(self._release_soon, ticket))
        held.task = task = asyncio.get_running_loop().create_task(drive.run())
        task.add_done_callback(lambda _: self._driven(record.id, task))
        return None

    def _driven(self, run_id: str, task: asyncio.Task[None]) -> None:
        if (held := self._held.get(run_id)) is not None and held.task is task:
            self.forget(run_id)

    def _release_soon(self, ticket: Ticket) -> None:
        asyncio.get_running_loop().call_later(_RELEASE_TIMEOUT, ticket.release)

    def _promote(self, record: RunRecord) -> None:
        """Drive a run whose turn has come, if it was accepted here; another process finds its own."""
        if record.owner == self.owner:
            self._start(record)

    def _signal(self, run_id: str, ending: Ending, reason: StopReason) -> None:
        if (drive := self._driver(run_id)) is not None:
            drive.stop(ending, reason)

    def _stop(self, record: RunRecord, ending: Ending, reason: StopReason) -> None:
        if self._driver(record.id) is not None:
            self._signal(record.id, ending, reason)
        elif record.state == QUEUED and record.owner == self.owner:
            self._start(record)
            self._signal(record.id, ending, "stop")
        else:
            self._keep(self._see_to_end(record))

    async def _see_to_end(self, record: RunRecord) -> None:
        """Take over a stopped run that nobody drives yet, or whose driver, in another process, does not end it."""
        if record.state != QUEUED:
            await asyncio.sleep(_STOP_TIMEOUT)
        await asyncio.to_thread(self._take_unended, record.id)

    def _answered(self, run_id: str, tool_call_id: str) -> None:
        if (drive := self._driver(run_id)) is not None:
            drive.answered(tool_call_id)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task beside the drivers, until it is done or this dispatcher closes: the loop holds tasks weakly."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel_all(self) -> None:
        tasks = [*self._tasks, *(held.task for held in self._held.values() if held.task is not None)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)


def _answered_elsewhere() -> Ticket:
    """Return the ticket of a run whose start no request of this process waits for: it cannot be refused any more."""
    ticket = Ticket()
    ticket.accept()
    ticket.release()
    return ticket
