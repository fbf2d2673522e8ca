"""The local dispatcher: whoever waits for a run is answered, whatever becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from bf_plugin.dispatch import local, port
from bf_plugin.dispatch.local import LocalDispatcher
from bf_plugin.dispatch.owner import Owner
from bf_plugin.engines.port import BaseEngine
from bf_plugin.errors import JournalError, ProviderError, RequestError
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Destination
from bf_plugin.journal import CANCELLED, Journal, RunRecord, open_journal
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.tables import runs
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager
from bf_plugin.run.driver import Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine
from bf_plugin.testing.gate import Gate
from bf_plugin.testing.records import a_run
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


class Gateway:
    """A messenger that remembers, and tells of, events."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._bodies: list[bytes] = []

    async def send(self, destination: Destination, message: bytes) -> None:
        with self._news:
            self._bodies.append(message)
            self._news.notify_all()

    async def aclose(self) -> None:
        pass

    def types(self) -> list[str]:
        return [event["type"] for body in self._bodies for event in events.events_in(body)]

    def wait_for_end(self) -> None:
        with self._news:
            assert self._news.wait_for(lambda: "end" in self.types(), 10), self.types()


class Process:
    """A dispatcher and what it needs, as one process has it."""

    def __init__(self, folder: Path, engine: BaseEngine | None) -> None:
        self.journal: Journal = open_journal(f"sqlite:///{folder / 'journal.db'}", [KEY])
        self.gateway = Gateway()
        self.loop = LoopThread()
        parts = Parts(
            journal=self.journal,
            hooks=HookCalls(new_manager(), Workers("test", limit=1)),
            settings=Settings(coalesce_ms=0),
            pace=Pace(0),
            engine=lambda name: engine,
            messenger=lambda record: self.gateway,
        )
        place = self.journal.database
        assert isinstance(place, SqliteFile)
        self.dispatcher = LocalDispatcher(self.loop, parts, Owner(place.lock_folder), place)

    def record(self, *, enqueue: bool = False, **changes: Any) -> RunRecord:
        """Put a run on record."""
        record = _record(**{"owner": self.dispatcher.owner, **changes})
        new = "thread_id" not in changes
        return self.journal.runs.create(record, new_thread=new, enqueue=enqueue, timeout=60).result(10)

    def start(self, **changes: Any) -> tuple[RunRecord, Ticket]:
        """Start a run as a request does."""
        record, ticket = self.record(**changes), Ticket()
        self.dispatcher.expect(record, ticket)
        self.dispatcher.submit(record)
        return record, ticket

    def state(self, record: RunRecord) -> str | None:
        found = self.journal.runs.get(record.id, record.thread_id)
        return None if found is None else found.state

    def close(self) -> None:
        self.dispatcher.close()
        self.loop.close()
        self.journal.close()


def _record(*, channels: list[str] | None = None, **changes: Any) -> RunRecord:
    return a_run(spec={} if channels is None else {"channels": channels}, **changes)


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def make(engine: BaseEngine | None = None) -> Process:
        processes.append(Process(tmp_path, engine))
        return processes[-1]

    yield make
    for process in processes:
        process.close()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def test_no_event_before_the_start_is_answered(boot: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """Events wait for the answer's close."""
    monkeypatch.setattr(port, "_RELEASE_TIMEOUT", 60.0)
    process = boot(ScriptedEngine(["text"]))
    record, ticket = process.start()
    ticket.wait_accepted(5)
    assert process.gateway.types() == []

    ticket.release()

    process.gateway.wait_for_end()
    eventually(lambda: process.state(record) == "ended")


def test_a_server_that_never_closes_an_answer(boot: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> None:
    """Events go out a moment later; the run does not wait for ever."""
    monkeypatch.setattr(port, "_RELEASE_TIMEOUT", 0.05)
    process = boot(ScriptedEngine(["text"]))
    _, ticket = process.start()

    ticket.wait_accepted(5)

    process.gateway.wait_for_end()


@pytest.mark.parametrize("busy", [True, False])
def test_an_idle_process_rarely_looks_around(
    boot: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """It looks for what others signal to its runs; without any there is little to look for."""
    monkeypatch.setattr(local, "_TICK", 0.001)
    monkeypatch.setattr(local, "_IDLE_TICK", 60.0)
    looks: list[Owner] = []

    def was_touched(owner: Owner) -> bool:
        looks.append(owner)
        return False

    monkeypatch.setattr(Owner, "was_touched", was_touched)
    gate = Gate()
    process = boot(ScriptedEngine(["so far", gate]))
    if busy:
        process.start()
    process.dispatcher.start()

    if busy:
        eventually(lambda: len(looks) > 5)
        gate.release()
    else:
        threading.Event().wait(0.1)
        assert looks == []


def test_a_caller_that_waits_is_answered_at_close(boot: Callable[..., Process]) -> None:
    """A process that goes away tells whoever waits, at each stage of a run."""
    engine = ScriptedEngine(["text"])
    asked = threading.Event()

    async def accept() -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    engine.before_accept = accept
    process = boot(engine)
    record, waiting = process.start(channels=[])
    _, queued = process.start(channels=[], thread_id=record.thread_id, enqueue=True)
    assert asked.wait(5)

    process.dispatcher.close()

    for ticket in (waiting, queued):
        with pytest.raises(RequestError) as caught:
            ticket.wait_accepted(5)
        assert caught.value.code == 503
        assert ticket.ended.done()
    assert process.dispatcher.active() == 0


def test_a_start_that_comes_too_late_is_answered(boot: Callable[..., Process]) -> None:
    """A request that was accepted while the process went away does not hang."""
    process = boot(ScriptedEngine())
    process.dispatcher.close()

    _, ticket = process.start()

    with pytest.raises(RequestError):
        ticket.wait_accepted(5)
    process.loop.close()
    _, ticket = process.start()
    with pytest.raises(RequestError):
        ticket.wait_accepted(5)
    assert process.dispatcher.active() == 0


def test_a_run_nobody_here_waits_for_is_not_taken_back(boot: Callable[..., Process]) -> None:
    """Its start was answered by another process: a refusal is told by events."""
    process = boot(ScriptedEngine([ProviderError("no", status=400)]))
    record = process.record()

    process.dispatcher.submit(record)

    process.gateway.wait_for_end()
    assert process.gateway.types() == ["threadInfo", "error", "end"]


def test_runs_of_a_dead_process_are_ended(boot: Callable[..., Process]) -> None:
    """Also one whose engine is not installed any more, and one that was stopped while it queued."""
    dead = boot()
    active = dead.record(owner="1-1-dead")
    queued = dead.record(owner="1-1-dead", thread_id=active.thread_id, enqueue=True)
    dead.journal.runs.decide(queued.id, CANCELLED).result(5)

    process = boot(None)
    process.dispatcher.start()

    eventually(lambda: (process.state(active), process.state(queued)) == ("ended", "ended"))
    assert process.gateway.types().count("end") == 2


def test_a_run_that_cannot_be_read_does_not_keep_the_others(boot: Callable[..., Process]) -> None:
    """One row written under a key that is lost is logged; the others are ended, and the process starts."""
    dead = boot()
    broken, fine = dead.record(owner="1-1-dead"), dead.record(owner="1-1-dead")
    spoil = update(runs).where(runs.c.id == broken.id).values(spec_sealed=b"spoiled")
    dead.journal.runs.write(lambda connection: connection.execute(spoil)).result(5)

    process = boot(None)
    process.dispatcher.start()

    eventually(lambda: process.state(fine) == "ended")


@pytest.mark.parametrize("channels", [["c"], []], ids=["streaming", "polling"])
def test_a_run_that_comes_back(boot: Callable[..., Process], channels: list[str]) -> None:
    """It was taken from this process by another one, which died at once: its former driver makes room for a new one."""
    reached = threading.Event()

    async def stand_still() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    process = boot(ScriptedEngine([stand_still, "text"]))
    record, ticket = process.start(channels=channels)
    ticket.wait_accepted(5)
    assert reached.wait(5)
    assert process.journal.runs.adopt(record.id, 1, "1-1-dead").result(5) is not None

    process.dispatcher.start()

    assert ticket.ended.result(10).status == "completed"
    eventually(lambda: process.state(record) == "ended")
    eventually(lambda: process.dispatcher.active() == 0)


def test_a_run_taken_over_before_its_first_response(boot: Callable[..., Process]) -> None:
    """Whoever sees it first in the journal, it is gone on with, not begun afresh."""
    process = boot(ScriptedEngine(["text"]))
    dead = process.record(owner="1-1-dead")
    opening = process.journal.steps.open(
        dead.id, 1, 1, thread_id=dead.thread_id, engine_key="mine", fresh=dead.spec.messages
    )
    opening.result(5)
    adopted = process.journal.runs.adopt(dead.id, 1, process.dispatcher.owner).result(5)
    assert adopted is not None
    assert adopted.state == "starting"

    process.dispatcher.start()

    process.gateway.wait_for_end()
    assert process.gateway.types() == ["threadInfo", "delta", "end"]


def test_a_journal_that_takes_no_takeover(
    boot: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the disk is full, say: that is said once, not with every try, and the run is taken when there is room."""
    process = boot(ScriptedEngine(["text"]))
    dead = process.record(owner="1-1-dead")
    adopt, tries = process.journal.runs.adopt, 0

    def fail(*args: Any) -> Future[Any]:
        nonlocal tries
        tries += 1
        if tries > 3:
            return adopt(*args)
        failed: Future[Any] = Future()
        failed.set_exception(JournalError("the disk is full; free space"))
        return failed

    monkeypatch.setattr(process.journal.runs, "adopt", fail)

    process.dispatcher.start()

    eventually(lambda: process.state(dead) == "ended")
    assert tries == 4
    assert caplog.text.count("this one cannot take it over yet: the disk is full; free space") == 1


def test_runs_of_a_living_process_are_left(boot: Callable[..., Process]) -> None:
    """Two mounts of one process, or two processes, may share a database."""
    first, second = boot(), boot()
    record = first.record()

    second.dispatcher.start()

    found = first.journal.runs.find(record.id)
    assert found is not None
    assert (found.state, found.owner) == ("starting", first.dispatcher.owner)


def test_a_queued_run_stopped_while_it_is_promoted(boot: Callable[..., Process]) -> None:
    """Both want to start its driver; one does, and the stop counts."""
    process = boot(ScriptedEngine())
    first = process.record()
    queued, _ = process.start(thread_id=first.thread_id, enqueue=True)
    process.journal.runs.decide(first.id, CANCELLED).result(5)
    promoted = process.journal.runs.finish(first.id, 1, usage=Usage(), cut=None, timeout=60).result(5)
    assert promoted is not None
    decision = process.journal.runs.decide(queued.id, CANCELLED).result(5)

    process.dispatcher.stop(queued, decision, "stop")
    process.dispatcher.submit(promoted)

    eventually(lambda: process.state(queued) == "ended")
    eventually(lambda: process.dispatcher.active() == 0)


def test_a_loop_that_is_told_to_exit_goes_on(boot: Callable[..., Process]) -> None:
    """A SystemExit in one run's engine ends that run, not the loop that drives all."""

    async def leave() -> None:
        raise SystemExit(1)

    process = boot(ScriptedEngine(["text", leave]))
    record, ticket = process.start(channels=[])

    result = ticket.ended.result(10)

    assert result.status == "failed"
    eventually(lambda: process.state(record) == "ended")


def test_a_promoted_run_is_driven_by_who_accepted_it(boot: Callable[..., Process]) -> None:
    """Another process of the host freed the thread; who accepted the run, and answers its caller, sees that."""
    accepted_here, freed_there = boot(ScriptedEngine(["text"])), boot()
    accepted_here.dispatcher.start()
    first = freed_there.record()
    queued, ticket = accepted_here.start(thread_id=first.thread_id, enqueue=True)

    promoted = freed_there.journal.runs.finish(first.id, 1, usage=Usage(), cut=None, timeout=60).result(5)

    assert promoted is not None
    assert promoted.owner == accepted_here.dispatcher.owner
    ticket.wait_accepted(10)
    ticket.release()
    eventually(lambda: accepted_here.state(queued) == "ended")
    assert accepted_here.gateway.types() == ["threadInfo", "delta", "end"]
