"""The driver: a run goes on after a crash, and a driver that lost its run keeps silent."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from bf_plugin import Toolbox, hookimpl
from bf_plugin.errors import DeliveryRefused, ProviderError
from bf_plugin.journal import CANCELLED
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine, ScriptedStream, call
from bf_plugin.values import Delta, Run, Usage
from drives import Gate, World, _adopt, _crash, _short


def _check_whole(world: World, text: str) -> None:
    """Assert that a handler that drops what it has seen shows `text`, and one `end`."""
    by_seq = {event["seq"]: event for event in world.gateway.events}
    assert [by_seq[event["seq"]] for event in world.gateway.events] == world.gateway.events
    seen = [by_seq[seq] for seq in sorted(by_seq)]
    assert sorted(by_seq) == list(range(1, len(by_seq) + 1))
    assert "".join(event["content"] for event in seen if event["type"] == "delta") == text
    assert [event["type"] for event in seen].count("end") == 1
    assert seen[-1]["type"] == "end"


def test_a_crashed_run_goes_on(world: World) -> None:
    """The next process follows the same response behind what was sealed, and the page gets each character once."""
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate, ", so good"])
    record = world.run(engine)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    _check_whole(world, "so far, so good")
    assert engine.resumed[0][1].texts == {(0, 0): "so far"}
    assert world.said(record) == ["user: hello", "assistant: so far, so good"]
    assert world.now(record).outcome == "completed"


def test_a_lost_response_is_asked_for_again_if_nothing_was_sent(world: World) -> None:
    """Nobody has seen anything of it, so a second answer contradicts nothing."""
    gate = Gate()
    engine = ScriptedEngine([gate, "never"], ["second try"])
    record = world.run(engine)
    _crash(world, record, engine, gate)
    engine.responses.clear()

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    _check_whole(world, "second try")
    assert [_short(item) for item in engine.requests[1].new] == ["user: hello"]
    assert world.said(record) == ["user: hello", "assistant: second try"]


def test_a_lost_response_that_was_seen_fails_the_run(world: World) -> None:
    """Another answer would contradict what the page shows."""
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate])
    record = world.run(engine)
    _crash(world, record, engine, gate)
    engine.responses.clear()

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    _check_whole(world, "so far")
    assert world.gateway.events[-2]["error"]["code"] == "provider_lost_response"
    assert world.said(record) == ["user: hello", "assistant: so far"]
    assert world.now(record).state == "ended"


class Fading(ScriptedEngine):
    """An engine whose responses, taken up again, say something and are lost then."""

    async def resume(self, handle: Any, cursor: Any, access: Any) -> ScriptedStream:
        lost = ProviderError("gone", code="provider_lost_response")
        return ScriptedStream(handle["response_id"], ["some", lost], Usage(), "stop")


def test_a_response_that_is_lost_while_it_is_followed(world: World) -> None:
    """What it said since the takeover is on its way to the page: it is not asked for again."""
    gate = Gate()
    engine = Fading([gate, "never"], ["another answer"])
    record = world.run(engine)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    _check_whole(world, "some")
    assert world.gateway.events[-2]["error"]["code"] == "provider_lost_response"
    assert world.said(record) == ["user: hello", "assistant: some"]


def test_a_run_is_given_up_after_too_many_takeovers(world: World) -> None:
    """A run that kills its processes does not go on for ever; sealing anything counts as progress."""
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate])
    record = world.run(engine)
    _crash(world, record, engine, gate)
    for _ in range(4):
        record = _adopt(world, record)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-2]["error"]["code"] == "too_many_takeovers"
    _check_whole(world, "so far")


@pytest.mark.parametrize(("idempotent", "runs"), [(True, 2), (False, 1)])
def test_a_started_tool_after_a_crash(world: World, idempotent: bool, runs: int) -> None:
    """A finished call is not made again; a started one only if it is idempotent, else the model is told."""
    tools, gate = Toolbox("pay"), Gate()
    made: list[str] = []

    @tools.tool(idempotent=idempotent)
    async def pay() -> str:
        """Pay."""
        made.append("pay")
        if made.count("pay") == 1:
            await gate()
        return "paid"

    @tools.tool()
    def look() -> str:
        """Look."""
        made.append("look")
        return "seen"

    world.plugins.append(tools)
    engine = ScriptedEngine([call("look", "{}", "c0"), call("pay", "{}", "c1")], ["done"])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await gate.reached.wait()
        while world.journal.steps.calls_of(record.id, 1)[0].output is None:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    outputs = [item["output"] for item in engine.requests[1].new if item["type"] == "function_output"]
    assert outputs[0] == "seen"
    assert outputs[1] == "paid" if idempotent else "may have taken effect" in outputs[1]
    assert (made.count("look"), made.count("pay")) == (1, runs)
    _check_whole(world, "done")


def test_plugins_are_told_of_the_end_after_a_crash(world: World) -> None:
    """`on_end` is called at least once: a process that died before it leaves that to the next."""
    engine = ScriptedEngine(["text"])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)
    world.journal.runs.set_told = lambda run_id: Future()  # type: ignore[method-assign]
    asyncio.run(drive.run())
    del world.journal.runs.set_told
    assert [run_id for run_id, _, _ in world.journal.runs.under_way()] == [record.id]
    sent = list(world.gateway.bodies)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    assert [(outcome.status, outcome.text) for outcome in world.recorder.outcomes] == [("completed", "text")] * 2
    assert world.gateway.bodies == sent
    world.journal.check()
    assert world.journal.runs.under_way() == []


class Upper:
    """Holds back the last character; a fresh one must be shown the text again after a takeover."""

    def __init__(self) -> None:
        self.replays = 0

    @hookimpl
    def on_delta(self, run: Run, delta: Delta) -> None:
        text = run.scratch.get("held", "") + delta.text.upper()
        cut = len(text) if delta.final else len(text) - 1
        delta.text, run.scratch["held"] = text[:cut], text[cut:]
        self.replays += delta.replay


def test_hooks_are_shown_the_text_again(world: World) -> None:
    """After a takeover a plugin that holds text back goes on as if nothing had happened."""
    plugin = Upper()
    world.plugins.append(plugin)
    gate = Gate(lambda: world.gateway.text() == "SO FA")
    engine = ScriptedEngine(["so far", gate, ", so good"])
    record = world.run(engine)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    assert plugin.replays == 1
    _check_whole(world, "SO FAR, SO GOOD")


def test_a_hook_that_cannot_be_replayed_ends_the_run(world: World) -> None:
    """What a plugin makes of the text must not depend on anything else."""

    class Fickle:
        @hookimpl
        def on_delta(self, delta: Delta) -> None:
            delta.text = "x" if delta.replay else "y"

    world.plugins.append(Fickle())
    gate = Gate(lambda: world.gateway.text() == "y")
    engine = ScriptedEngine(["so far", gate])
    record = world.run(engine)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    assert world.gateway.events[-2]["error"]["code"] == "hook_not_replayable"


def test_a_crashed_run_that_was_ending_keeps_its_outcome(world: World) -> None:
    """What was decided before the crash is what the end says."""
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate])
    record = world.run(engine)
    _crash(world, record, engine, gate)
    world.journal.runs.decide(record.id, CANCELLED).result(5)
    adopted = world.journal.runs.adopt(record.id, 1, "other").result(5)
    assert adopted is not None

    asyncio.run(world.drive(adopted, engine)[0].run())

    assert world.gateway.types()[-1] == "end"
    assert world.gateway.events[-1]["finish_reason"] == "cancelled"
    assert "error" not in world.gateway.types()


def test_a_driver_that_lost_its_run_says_nothing(world: World) -> None:
    """After a takeover the old driver writes and sends nothing more."""
    gate = Gate(lambda: world.gateway.text() == "so far")

    async def wait_and_go_on() -> None:
        gate.reached.set()
        await released.wait()

    released = asyncio.Event()
    engine = ScriptedEngine(["so far", wait_and_go_on, "more"])
    record = world.run(engine)
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await gate.reached.wait()
        while world.gateway.text() != "so far":
            await asyncio.sleep(0.001)
        world.journal.runs.adopt(record.id, 1, "other").result(5)
        released.set()
        await asyncio.wait_for(task, 10)

    asyncio.run(scenario())

    assert world.gateway.types() == ["threadInfo", "delta"]
    assert world.now(record).outcome is None


def test_a_driver_that_lost_its_run_does_not_end_it(world: World) -> None:
    """Its last message is refused after another driver has the run: that is not the run's failure."""
    record = world.run(ScriptedEngine())

    async def lose_it() -> None:
        if "delta" in world.gateway.types():
            world.journal.runs.adopt(record.id, 1, "other").result(5)
            raise DeliveryRefused("404")

    world.gateway.answer = lose_it
    engine = ScriptedEngine(["text", Gate()])

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.now(record).outcome is None


def test_a_deadline_seen_by_a_driver_that_lost_its_run(world: World) -> None:
    """The next driver sees the same deadline by itself; the former one goes away."""
    world.settings = Settings(coalesce_ms=0, run_timeout=0.2)
    engine = ScriptedEngine(["so far", Gate()])
    record = world.run(engine)
    world.journal.runs.adopt(record.id, 1, "other").result(5)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.now(record).outcome is None
    assert world.gateway.bodies == []
