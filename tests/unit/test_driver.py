"""The driver: one outcome a run, an end for each, and a thread that works afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bf_plugin import StopRun, Toolbox, hookimpl
from bf_plugin.errors import DeliveryRefused, JournalError, ProviderError, RequestError
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers.port import Destination
from bf_plugin.items import text_message
from bf_plugin.journal import CANCELLED, Ending, Journal, RunRecord, open_journal
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run import ending, outbox
from bf_plugin.run.driver import Drive, Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine, ScriptedStream, call
from bf_plugin.testing.records import a_run
from bf_plugin.values import Delta, Outcome, Run, Usage

T = TypeVar("T")
KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


class Gateway:
    """A messenger that remembers events; `answer` may fail or wait."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answer: Callable[[], Awaitable[object]] | None = None

    async def send(self, destination: Destination, message: bytes) -> None:
        self.bodies.append(message)
        if self.answer is not None:
            await self.answer()

    async def aclose(self) -> None:
        pass

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in events.events_in(body)]

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def text(self) -> str:
        return "".join(event["content"] for event in self.events if event["type"] == "delta")


class Recorder:
    """A plugin that notes how runs end."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.reasons: list[str] = []

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @hookimpl
    def on_stop(self, run: Run, reason: str) -> None:
        self.reasons.append(reason)


class World:
    """A journal, a gateway and drivers, without a process around them."""

    def __init__(self, journal: Journal, **values: Any) -> None:
        self.journal = journal
        self.settings = Settings(coalesce_ms=0, **values)
        self.gateway = Gateway()
        self.recorder = Recorder()
        self.promoted: list[RunRecord] = []
        self.workers = Workers("test", limit=4)
        self.plugins: list[object] = [self.recorder]

    def run(
        self, engine: ScriptedEngine, thread_id: str | None = None, enqueue: bool = False, **spec: Any
    ) -> RunRecord:
        """Put a run on record."""
        record = a_run(spec=spec, **({"thread_id": thread_id} if thread_id else {}))
        timeout = self.settings.run_timeout
        creating = self.journal.runs.create(record, new_thread=thread_id is None, enqueue=enqueue, timeout=timeout)
        return creating.result(10)

    def drive(self, record: RunRecord, engine: ScriptedEngine, *, answered: bool = True) -> tuple[Drive, Ticket]:
        """Return a driver for a run on record, whose start is `answered` already, so that events may go."""
        manager = new_manager()
        for number, plugin in enumerate(self.plugins):
            register(manager, f"plugin{number}", plugin)
        parts = Parts(
            journal=self.journal,
            hooks=HookCalls(manager, self.workers),
            settings=self.settings,
            pace=Pace(self.settings.coalesce_ms / 1000),
            engine=lambda name: engine,
            messenger=lambda record: self.gateway,
        )
        ticket = Ticket()
        drive = Drive(record, parts, ticket=ticket, promoted=self.promoted.append)
        if answered:
            ticket.wait_accepted(0)
            drive.release()
        return drive, ticket

    def now(self, record: RunRecord) -> RunRecord:
        """Return a run as the journal has it now."""
        found = self.journal.runs.get(record.id, record.thread_id)
        assert found is not None
        return found

    def items(self, record: RunRecord) -> list[Mapping[str, Any]]:
        """Return the thread's items."""
        return list(self.journal.runs.thread_items(record.thread_id))

    def said(self, record: RunRecord) -> list[str]:
        """Return the thread's items in short."""
        return [_short(item) for item in self.items(record)]


def _short(item: Mapping[str, Any]) -> str:
    if item["type"] == "message":
        return f"{item['role']}: {item['content'][0]['text']}"
    return f"{item['type']} {item['call_id']}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    journal = open_journal(f"sqlite:///{tmp_path / 'journal.db'}", [KEY])
    yield World(journal)
    journal.close()


def test_a_run_from_start_to_end(world: World) -> None:
    """Text goes out, the thread keeps the conversation, the keys are erased, plugins are told."""
    engine = ScriptedEngine(["Hello ", "there"])
    record = world.run(engine)
    drive, ticket = world.drive(record, engine)

    asyncio.run(drive.run())

    assert world.gateway.types()[0] == "threadInfo"
    assert world.gateway.types()[-1] == "end"
    assert world.gateway.text() == "Hello there"
    assert world.said(record) == ["user: hello", "assistant: Hello there"]
    assert (world.now(record).state, world.now(record).outcome) == ("ended", "completed")
    assert world.now(record).secrets is None
    assert [outcome.text for outcome in world.recorder.outcomes] == ["Hello there"]
    assert ticket.ended.result(0).status == "completed"


def test_the_next_run_sends_only_what_is_new(world: World) -> None:
    """The engine gets its state back, and the items that state does not cover."""
    first, second = ScriptedEngine(["one"]), ScriptedEngine(["two"])
    record = world.run(first)
    asyncio.run(world.drive(record, first)[0].run())
    again = world.run(second, record.thread_id, messages=[text_message("user", "more")])

    asyncio.run(world.drive(again, second)[0].run())

    assert second.requests[0].state == {"response_id": "resp_1"}
    assert [_short(item) for item in second.requests[0].new] == ["user: more"]


def test_tools_are_run_and_answered(world: World) -> None:
    """Calls of one step are announced together, run, and their outputs make the next step."""
    tools = Toolbox("sums")

    @tools.tool()
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    world.plugins.append(tools)
    engine = ScriptedEngine([call("add", '{"a":1,"b":2}', "c1"), call("add", '{"a":1}', "c2")], ["done"])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    outputs = [item for item in engine.requests[1].new if item["type"] == "function_output"]
    assert [output["call_id"] for output in outputs] == ["c1", "c2"]
    assert outputs[0]["output"] == "3"
    assert "b" in outputs[1]["output"]
    assert world.gateway.types() == ["threadInfo", "function_call", "delta", "end"]


def test_steps_tell_when_text_came_and_how_they_ended(world: World) -> None:
    """Of each step hooks learn its first text, and of a step without one that there was none."""
    tools = Toolbox("clock")
    tools.tool(name="now")(lambda: 12)
    world.plugins.append(tools)
    gate = Gate(lambda: world.gateway.text() == "It is")
    engine = ScriptedEngine([call("now")], ["It is", gate, " noon"])
    record = world.run(engine)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    (outcome,) = world.recorder.outcomes
    assert [(step.first_text_at, step.finish_reason) for step in outcome.steps] == [(None, "stop"), (None, "stop")]
    again = world.run(again_engine := ScriptedEngine(["Hello ", "there"], finish_reason="length"), record.thread_id)
    asyncio.run(world.drive(again, again_engine)[0].run())
    (step,) = world.recorder.outcomes[-1].steps
    assert step.finish_reason == "length"
    assert step.first_text_at is not None
    assert step.ended_at is not None
    assert step.started_at <= step.first_text_at <= step.ended_at


def test_a_run_carries_its_trace(world: World) -> None:
    """To the engine and to hooks, with its messages and the time it began, in each process that drives it."""
    trace: dict[str, Any] = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b"}
    seen: list[Run] = []

    class Witness:
        @hookimpl
        def on_end(self, run: Run) -> None:
            seen.append(run)

    world.plugins.append(Witness())
    gate = Gate(lambda: world.gateway.text() == "so far")
    engine = ScriptedEngine(["so far", gate, ", so good"])
    record = world.run(engine, **trace)
    _crash(world, record, engine, gate)

    asyncio.run(world.drive(_adopt(world, record), engine)[0].run())

    (run,) = seen
    assert {"traceparent": run.traceparent, "tracestate": run.tracestate} == trace
    assert run.started_at == world.now(record).started_at
    assert run.messages == (text_message("user", "hello"),)
    accesses = [(access.traceparent, access.tracestate) for access in engine.accesses]
    assert accesses == [tuple(trace.values())] * 2  # asked, and followed by the next process


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


class Gate:
    """Something a script waits for, for ever; `reached` tells that it does."""

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.reached = asyncio.Event()
        self._ready = ready

    async def __call__(self) -> None:
        while not self._ready():
            await asyncio.sleep(0.001)
        self.reached.set()
        await asyncio.Event().wait()


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


def test_a_refused_start_leaves_nothing(world: World) -> None:
    """A provider's refusal is the start's answer; run and thread are gone, no event was sent."""
    engine = ScriptedEngine([ProviderError("no such model", status=404, code="model_not_found")])
    record = world.run(engine)
    drive, ticket = world.drive(record, engine, answered=False)

    asyncio.run(drive.run())

    with pytest.raises(RequestError, match="no such model") as caught:
        ticket.wait_accepted(1)
    assert caught.value.code == 400
    assert world.journal.runs.get(record.id, record.thread_id) is None
    assert not world.journal.runs.has_thread(record.thread_id, "app")
    assert world.gateway.bodies == []


def test_a_refusal_after_the_answer_is_an_event(world: World) -> None:
    """Once a start is answered, its refusal is told by `error` and `end`."""
    engine = ScriptedEngine([ProviderError("down", status=503)])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types() == ["threadInfo", "error", "end"]
    assert world.gateway.events[-1]["finish_reason"] == "error"
    assert world.now(record).outcome == "failed"
    assert world.said(record) == ["user: hello"]


def test_a_failure_in_mid_stream(world: World) -> None:
    """Text, then `error`, then `end`; the text stays."""
    engine = ScriptedEngine(["so far", ProviderError("broken", code="server_error")])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types()[-2:] == ["error", "end"]
    assert world.gateway.events[-2]["error"]["code"] == "server_error"
    assert world.gateway.text() == "so far"
    assert world.said(record) == ["user: hello", "assistant: so far"]


def test_a_deadline(world: World) -> None:
    """A run that takes too long expires."""
    world.settings = Settings(coalesce_ms=0, run_timeout=0.2)
    engine = ScriptedEngine(["so far", Gate()])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-1]["finish_reason"] == "expired"
    assert world.gateway.events[-2]["error"]["code"] == "run_expired"
    assert world.now(record).outcome == "expired"
    assert world.recorder.reasons == ["deadline"]


def test_a_gateway_that_refuses(world: World) -> None:
    """A run that cannot be delivered fails; its end is on record and not sent, the provider is cancelled."""

    async def refuse() -> None:
        if "delta" in world.gateway.types():
            raise DeliveryRefused("404")

    world.gateway.answer = refuse
    engine = ScriptedEngine(["text", Gate()])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types() == ["threadInfo", "delta"]
    kept = [event for row in world.journal.log.all(record.id) for event in events.events_in(row.body)]
    assert [event["type"] for event in kept][-2:] == ["error", "end"]
    assert kept[-2]["error"]["code"] == "delivery_failed"
    assert engine.cancelled == [{"response_id": "resp_1"}]


def test_the_step_limit(world: World) -> None:
    """A model that never stops asking for tools is stopped."""
    world.settings = Settings(coalesce_ms=0, step_limit=2)
    engine = ScriptedEngine([call("x")], [call("x")])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-2]["error"]["code"] == "step_limit"
    assert world.said(record)[-2:] == ["function_call call_1", "function_output call_1"]


def test_the_budget_is_over_the_whole_run(world: World) -> None:
    """`max_completion_tokens` counts over the steps; when it is used up the run ends with `length`."""
    usage = Usage(prompt_tokens=1, completion_tokens=6, total_tokens=7)
    engine = ScriptedEngine([call("x")], [call("x")], usage=usage)
    record = world.run(engine, options={"max_completion_tokens": 10})

    asyncio.run(world.drive(record, engine)[0].run())

    assert [request.max_tokens for request in engine.requests] == [10, 4]
    assert world.gateway.events[-1]["finish_reason"] == "length"
    assert world.gateway.events[-1]["usage"]["total_tokens"] == 14
    assert world.said(record)[-1] == "function_output call_1"


@pytest.mark.parametrize(("reason", "outcome"), [("content_filter", "completed"), ("error", "failed")])
def test_a_hook_stops_the_run(world: World, reason: str, outcome: str) -> None:
    """StopRun from a tool ends the run as it says."""

    class Guard:
        @hookimpl
        def on_tool_call(self) -> object:
            raise StopRun(reason, "enough")

    world.plugins.append(Guard())
    engine = ScriptedEngine([call("x")])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-1]["finish_reason"] == reason
    assert world.now(record).outcome == outcome


def test_the_next_in_the_queue_comes_up(world: World) -> None:
    """The end of a run starts the oldest queued run of its thread."""
    engine = ScriptedEngine(["one"])
    record = world.run(engine)
    second = world.run(engine, record.thread_id, enqueue=True)
    world.run(engine, record.thread_id, enqueue=True)

    asyncio.run(world.drive(record, engine)[0].run())

    assert [(run.id, run.state) for run in world.promoted] == [(second.id, "starting")]
    assert world.promoted[0].deadline is not None


def _crash(world: World, record: RunRecord, engine: ScriptedEngine, gate: Gate) -> None:
    """Drive a run until it comes to `gate`, then vanish like a killed process."""
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await gate.reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def _adopt(world: World, record: RunRecord) -> RunRecord:
    adopted = world.journal.runs.adopt(record.id, record.epoch, "other").result(5)
    assert adopted is not None
    return adopted


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

    def decided(*args: Any, **options: Any) -> Future[Any]:
        Failing(monkeypatch, world.journal.log._groups._writer, "submit_all", times=3)
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


class Broken(ScriptedEngine):
    """An engine whose cancel and cut fail, as one of another distribution may."""

    async def cancel(self, handle: Any, access: Any) -> None:
        raise OSError("no route")

    def cut(self, state: Any, handle: Any) -> None:
        raise KeyError("cursor")


def test_an_engine_that_fails_at_the_end(world: World) -> None:
    """Plugins are told of the end, and the thread is free."""
    engine = Broken(["text", ProviderError("broken")])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.now(record).state == "ended"
    assert [outcome.status for outcome in world.recorder.outcomes] == ["failed"]


async def _cancelled_within() -> None:
    raise asyncio.CancelledError


def test_an_engine_that_cancels_itself(world: World) -> None:
    """A cancellation nobody asked for is a failure, not the end of the driver."""
    engine = ScriptedEngine(["text", _cancelled_within])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.types() == ["threadInfo", "delta", "error", "end"]


def test_lone_surrogates_are_not_fatal(world: World) -> None:
    """They are replaced in what is sent, kept and reported."""
    engine = ScriptedEngine(["a\ud800b", call("x\ud800", '{"a":"\ud800"}')], [ProviderError("bad \ud800")])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.text() == "a\ufffdb"
    assert world.said(record)[1] == "assistant: a\ufffdb"
    assert world.gateway.events[-2]["error"]["message"].endswith("bad \ufffd")
