"""The driver: a stop wherever it falls gives one outcome, and a thread that works afterwards."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bf_plugin import Toolbox
from bf_plugin.journal import CANCELLED, RunRecord
from bf_plugin.run.ticket import Ticket
from bf_plugin.testing.engine import ScriptedEngine, call
from drives import Gate, World


def _stop_at_gate(world: World, engine: ScriptedEngine, record: RunRecord, gate: Gate) -> Ticket:
    """Drive a run, stop it when it has come to `gate`, and wait for its end."""
    drive, ticket = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await gate.reached.wait()
        decision = world.journal.runs.decide(record.id, CANCELLED).result(5)
        drive.stop(decision, "stop")
        await asyncio.wait_for(task, 10)

    asyncio.run(scenario())
    return ticket


def test_a_stop_in_mid_stream(world: World) -> None:
    """The text so far stays in the thread, the provider is cancelled, the end says cancelled."""
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate, "never"])
    record = world.run(engine)

    ticket = _stop_at_gate(world, engine, record, gate)

    assert world.gateway.types() == ["threadInfo", "delta", "end"]
    assert world.gateway.events[-1]["finish_reason"] == "cancelled"
    assert world.said(record) == ["user: hello", "assistant: so far"]
    assert engine.cancelled == [{"response_id": "resp_1"}]
    assert world.recorder.reasons == ["stop"]
    assert world.recorder.outcomes[0].status == "cancelled"
    assert ticket.ended.result(0).content == [{"type": "text", "text": {"value": "so far"}}]


def test_a_stop_before_the_provider_answers(world: World) -> None:
    """`end` does not wait for the provider, and the response is cancelled once its name is known."""
    engine = ScriptedEngine(["never seen"])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        asked, answer = asyncio.Event(), asyncio.Event()

        async def accept() -> None:
            asked.set()
            await answer.wait()

        engine.before_accept = accept
        task = asyncio.ensure_future(drive.run())
        await asked.wait()
        drive.stop(world.journal.runs.decide(record.id, CANCELLED).result(5), "stop")
        while world.now(record).state != "ended":
            await asyncio.sleep(0.001)
        assert world.gateway.types() == ["threadInfo", "end"]
        assert engine.cancelled == []
        answer.set()
        await asyncio.wait_for(task, 10)

    asyncio.run(scenario())
    assert engine.cancelled == [{"response_id": "resp_1"}]
    assert world.said(record) == ["user: hello"]


def test_a_stop_during_a_tool(world: World) -> None:
    """The next run tells the model that the tool may have taken effect."""
    tools, reached = Toolbox("slow"), asyncio.Event()

    @tools.tool()
    async def pay() -> None:
        """Pay."""
        reached.set()
        await asyncio.Event().wait()

    world.plugins.append(tools)
    engine = ScriptedEngine([call("pay")])
    record = world.run(engine)
    gate = Gate()
    gate.reached = reached

    _stop_at_gate(world, engine, record, gate)

    last = world.items(record)[-1]
    assert last["type"] == "function_output"
    assert "may have taken effect" in last["output"]
    assert world.gateway.events[-1]["finish_reason"] == "cancelled"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.text(alphabet="ab😀", min_size=1, max_size=4), min_size=1, max_size=8),
    with_tool=st.booleans(),
    ticks=st.integers(min_value=0, max_value=60),
)
def test_one_outcome_wherever_the_stop_falls(world: World, parts: list[str], with_tool: bool, ticks: int) -> None:
    """Stop, journal, `end` and thread tell the same story at whatever moment a stop arrives."""
    fresh = World(world.journal)
    scripts: list[list[Any]] = [[*parts, call("x")], ["tail"]] if with_tool else [[*parts]]
    engine = ScriptedEngine(*scripts)
    record = fresh.run(engine)
    drive, _ = fresh.drive(record, engine)

    async def scenario() -> str:
        task = asyncio.ensure_future(drive.run())
        for _ in range(ticks):
            await asyncio.sleep(0.0002)
        ending = await asyncio.wrap_future(world.journal.runs.decide(record.id, CANCELLED))
        if ending.won:
            drive.stop(ending, "stop")
        await asyncio.wait_for(task, 20)
        return ending.status

    outcome = asyncio.run(scenario())

    found = fresh.gateway.events
    expected = {"cancelled": "cancelled", "completed": "stop"}[outcome]
    assert fresh.now(record).outcome == outcome
    assert [event["type"] for event in found].count("end") == 1
    assert found[-1]["finish_reason"] == expected
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    whole = "".join(parts) + ("tail" if with_tool else "")
    assert whole.startswith(fresh.gateway.text())
    assert outcome == "cancelled" or fresh.gateway.text() == whole
    calls = [item["call_id"] for item in fresh.items(record) if item["type"] == "function_call"]
    outputs = [item["call_id"] for item in fresh.items(record) if item["type"] == "function_output"]
    assert calls == outputs
    assert fresh.items(record)[0]["type"] == "message"


class Held:
    """Stands before a write of the journal: it commits, but the driver hears of it only when `let` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: object, name: str, at: int = 1) -> None:
        self.reached = asyncio.Event()
        self._write = getattr(store, name)
        self._at = at
        monkeypatch.setattr(store, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = self._write(*args, **kwargs)
        self._at -= 1
        if self._at != 0:
            return done
        self._value = done.result(5)
        self._held: Future[Any] = Future()
        self.reached.set()
        return self._held

    def let(self) -> None:
        self._held.set_result(self._value)


@pytest.mark.parametrize(("write", "at"), [("open", 1), ("name", 1), ("close", 1), ("open", 2), ("close", 2)])
def test_a_stop_while_a_step_is_written(world: World, monkeypatch: pytest.MonkeyPatch, write: str, at: int) -> None:
    """What a write put on record is not left in the thread a second time, nor forgotten."""
    held = Held(monkeypatch, world.journal.steps, write, at)
    engine = ScriptedEngine(["text", call("x")], ["tail"])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await held.reached.wait()
        drive.stop(world.journal.runs.decide(record.id, CANCELLED).result(5), "stop")
        for _ in range(20):
            await asyncio.sleep(0)
        held.let()
        await asyncio.wait_for(task, 10)

    asyncio.run(scenario())

    said = world.said(record)
    whole = ["user: hello", "assistant: text", "function_call call_1", "function_output call_1", "assistant: tail"]
    short = {("open", 1): 1, ("name", 1): 1, ("close", 1): 4, ("open", 2): 4, ("close", 2): 5}
    assert said == whole[: short[write, at]]
    assert world.gateway.events[-1]["finish_reason"] == "cancelled"
