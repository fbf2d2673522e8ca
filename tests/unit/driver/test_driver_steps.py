"""The driver: steps, tools, budgets and the queue of a thread."""

from __future__ import annotations

import asyncio
from typing import Any

from bf_plugin import Toolbox, hookimpl
from bf_plugin.errors import ProviderError
from bf_plugin.items import text_message
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine, call
from bf_plugin.values import Run, Usage
from drives import Gate, World, _adopt, _crash, _short


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


def test_the_next_in_the_queue_comes_up(world: World) -> None:
    """The end of a run starts the oldest queued run of its thread."""
    engine = ScriptedEngine(["one"])
    record = world.run(engine)
    second = world.run(engine, record.thread_id, enqueue=True)
    world.run(engine, record.thread_id, enqueue=True)

    asyncio.run(world.drive(record, engine)[0].run())

    assert [(run.id, run.state) for run in world.promoted] == [(second.id, "starting")]
    assert world.promoted[0].deadline is not None


def test_lone_surrogates_are_not_fatal(world: World) -> None:
    """They are replaced in what is sent, kept and reported."""
    engine = ScriptedEngine(["a\ud800b", call("x\ud800", '{"a":"\ud800"}')], [ProviderError("bad \ud800")])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.text() == "a\ufffdb"
    assert world.said(record)[1] == "assistant: a\ufffdb"
    assert world.gateway.events[-2]["error"]["message"].endswith("bad \ufffd")
