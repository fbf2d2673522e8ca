"""The driver: a run is ended however long the journal fails."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from bf_plugin import StopRun
from bf_plugin.errors import JournalError, ProviderError, RequestError
from bf_plugin.journal import Ending
from bf_plugin.run import ending, outbox
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine
from drives import Gate, World


class Failing:
    """A write of the journal that fails a few times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: object, name: str, times: int = 1) -> None:
        self._write = getattr(store, name)
        self.times = times
        monkeypatch.setattr(store, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.times == 0:
            result: Future[Any] = self._write(*args, **kwargs)
            return result
        self.times -= 1
        failed: Future[Any] = Future()
        failed.set_exception(JournalError("the journal cannot be written: database or disk is full; free space"))
        return failed


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "_AGAIN", (0.001,))
    monkeypatch.setattr(outbox, "_SEAL_AGAIN", 0.001)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("write", ["decide", "finish"])
def test_a_run_is_ended_however_long_the_journal_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Its caller hears of it at once; the run gets its end once the journal works, so that its thread is free."""
    failing = Failing(monkeypatch, world.journal.runs, write, times=3)
    engine = ScriptedEngine(["text"])
    record = world.run(engine)
    drive, ticket = world.drive(record, engine)

    asyncio.run(asyncio.wait_for(drive.run(), 10))

    assert failing.times == 0
    assert world.now(record).state == "ended"
    assert world.gateway.types() == ["threadInfo", "delta", "end"]
    with pytest.raises(RequestError, match="journal") as caught:
        ticket.ended.result(0)
    assert caught.value.code == 503


@pytest.mark.usefixtures("impatient")
def test_an_end_is_sealed_however_long_the_journal_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that has seen the text is told of the end, even if the journal failed just then."""
    engine = ScriptedEngine(["text"])
    record = world.run(engine)
    decide = world.journal.runs.decide
    seals = SimpleNamespace(commit=world.journal.log._groups._writer.commit)
    monkeypatch.setattr(world.journal.log._groups, "_writer", seals)

    def decided(*args: Any, **options: Any) -> Future[Any]:
        Failing(monkeypatch, seals, "commit", times=3)
        return decide(*args, **options)

    monkeypatch.setattr(world.journal.runs, "decide", decided)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.types() == ["threadInfo", "delta", "end"]


@pytest.mark.usefixtures("impatient")
def test_a_refused_start_is_taken_back_however_long_the_journal_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller does not wait for the journal, and the thread is free afterwards."""
    Failing(monkeypatch, world.journal.runs, "discard", times=3)
    engine = ScriptedEngine([ProviderError("no", status=400)])
    record = world.run(engine)
    drive, ticket = world.drive(record, engine, answered=False)

    asyncio.run(asyncio.wait_for(drive.run(), 10))

    with pytest.raises(RequestError):
        ticket.wait_accepted(0)
    assert world.journal.runs.get(record.id, record.thread_id) is None


def test_the_journal_fails_at_a_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends all the same, and its end says why."""
    monkeypatch.setattr(ending, "_AGAIN", (0.001,))
    world.settings = Settings(coalesce_ms=0, run_timeout=0.2)
    engine = ScriptedEngine(["so far", Gate()])
    record = world.run(engine)
    Failing(monkeypatch, world.journal.runs, "decide", times=2)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.types()[-2:] == ["error", "end"]
    assert world.now(record).outcome == "expired"


def test_an_outcome_seen_at_the_fence_keeps_its_error(world: World) -> None:
    """The text's seal meets an expiry before the driver is told of it: the `error` event is still sent."""
    error = {"message": "too long", "code": "run_expired", "details": None}

    async def expire() -> None:
        world.journal.runs.decide(record.id, Ending(status="expired", finish_reason="expired", error=error)).result(5)

    engine = ScriptedEngine(["one", expire, "two", Gate()])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.types()[-2:] == ["error", "end"]


def test_a_run_that_is_lost_while_it_ends(world: World) -> None:
    """Another driver takes over while a plugin's StopRun ends the run: this driver goes away, it does not wait."""

    async def lose_it() -> None:
        world.journal.runs.adopt(record.id, 1, "other").result(5)
        raise StopRun("error", "enough")

    engine = ScriptedEngine(["one", lose_it])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)

    asyncio.run(asyncio.wait_for(drive.run(), 10))

    assert "end" not in world.gateway.types()
