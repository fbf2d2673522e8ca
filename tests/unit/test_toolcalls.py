"""The calls of one step: announced together, each answered once, whatever ends the run meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from bf_plugin import StopRun, hookimpl
from bf_plugin.items import FunctionCall, FunctionTool
from bf_plugin.journal.records import CallRecord
from bf_plugin.journal.states import CallState
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.toolcalls import ToolCalls, cut_output, parse_arguments
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing import new_run
from bf_plugin.testing.engine import call
from bf_plugin.values import ToolCall


class Steps:
    """The journal's part in it, in memory. `answers` are those of pages, by tool call id."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.ids: dict[int, str] = {}
        self.answers: dict[str, str] = {}

    def start_call(self, run_id: str, epoch: int, key: tuple[int, int], **asked: Any) -> Future[None]:
        self.log.append(("started", key[1]))
        if asked.get("tool_call_id"):
            self.ids[key[1]] = asked["tool_call_id"]
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def finish_call(self, run_id: str, epoch: int, key: tuple[int, int], output: str) -> Future[str]:
        self.log.append(("done", key[1]))
        done: Future[str] = Future()
        done.set_result(self.answers.get(self.ids.get(key[1], ""), output))
        return done


class Outbox:
    """Notes events and actions; `seen` is called with each action."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.actions: list[Mapping[str, Any]] = []
        self.seen: Callable[[Mapping[str, Any]], object] = lambda action: None
        self.answers = 0

    def has_asked(self, tool_call_id: str) -> bool:
        return False

    def event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def action(self, action: Mapping[str, Any]) -> None:
        self.actions.append(action)
        self.seen(action)


class World:
    """Tool calls with their surroundings; `answer` is what the only plugin does with a call."""

    def __init__(self, workers: Workers, *tools: FunctionTool, **values: Any) -> None:
        world = self

        class Plugin:
            @hookimpl
            def on_tool_call(self, call: ToolCall) -> object:
                return world.answer(call)

        manager = new_manager()
        register(manager, "plugin", Plugin())
        self.answer: Callable[[ToolCall], object] = lambda call: f"{call.name} done"
        self.steps, self.outbox = Steps(), Outbox()
        self.calls = ToolCalls(
            run=new_run(tools=tools),
            epoch=1,
            steps=self.steps,  # type: ignore[arg-type]  # the two methods that are used
            hooks=HookCalls(manager, workers),
            composer=self.outbox,  # type: ignore[arg-type]
            outbox=self.outbox,  # type: ignore[arg-type]
            settings=Settings(**values),
        )

    def run(self, *calls: FunctionCall) -> list[str]:
        """Return the outputs of a step's calls."""

        async def scenario() -> Sequence[Any]:
            return await asyncio.wait_for(self.calls.run_all(1, calls), 10)

        return [output["output"] for output in asyncio.run(scenario())]


def tool(name: str, **properties: Any) -> FunctionTool:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "name": name, "description": "", "parameters": parameters, "strict": False}


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("test", limit=4)
    yield workers
    workers.close()


def test_calls_are_announced_together_and_answered_in_order(workers: Workers) -> None:
    """One event, before any of them runs; outputs in the model's order, whichever was done first."""
    world = World(workers)
    second = threading.Event()
    announced: list[int] = []

    def answer(asked: ToolCall) -> str:
        announced.append(len(world.outbox.events))
        if asked.id == "c1":
            assert second.wait(5)
        else:
            second.set()
        return asked.id

    world.answer = answer

    assert world.run(call("x", '{"userMessage":"wait"}', "c1"), call("y", "{}", "c2")) == ["c1", "c2"]
    assert announced == [1, 1]
    functions = world.outbox.events[0]["content"]["functions"]
    assert functions == [{"name": "x", "userMessage": "wait"}, {"name": "y", "userMessage": None}]


def test_one_that_stops_the_run(workers: Workers) -> None:
    """The others are left where they are: started, without a result."""
    world = World(workers)
    reached, never = threading.Event(), threading.Event()

    def answer(asked: ToolCall) -> str:
        if asked.id == "slow":
            reached.set()
            never.wait(5)
            return "late"
        assert reached.wait(5)
        raise StopRun("stop")

    world.answer = answer

    with pytest.raises(StopRun):
        world.run(call("x", "{}", "slow"), call("x", "{}", "stops"))

    never.set()
    assert sorted(world.steps.log) == [("started", 0), ("started", 1)]


def test_a_page_that_answers_before_the_action_is_on_its_way(workers: Workers) -> None:
    """Its answer is on record under an id that was on record first, and is found there."""
    world = World(workers, tool("ui_ask"))

    def answer(action: Mapping[str, Any]) -> None:
        tool_call_id = action["options"]["toolCallId"]
        world.steps.answers[tool_call_id] = "from the page"
        world.calls.answered(tool_call_id)

    world.outbox.seen = answer

    assert world.run(call("ui_ask")) == ["from the page"]
    assert world.steps.ids[0] == world.outbox.actions[0]["options"]["toolCallId"]
    assert world.outbox.events[0]["calls"][0]["toolCallId"] == world.steps.ids[0]


def test_a_page_that_does_not_answer(workers: Workers) -> None:
    """The model is told, after the operator's time."""
    world = World(workers, tool("ui_ask"), ui_tool_timeout=0.01)

    assert world.run(call("ui_ask")) == ["Error: the page did not answer ui_ask within 0.01 seconds."]


def test_a_page_is_not_asked_with_bad_arguments(workers: Workers) -> None:
    """Neither with unknown properties nor with keys that it would evaluate."""
    world = World(workers, tool("ui_ask", text={"type": "string"}))

    outputs = world.run(call("ui_ask", '{"other":1}', "a"), call("ui_ask", '{"text_calc":"1"}', "b"))

    assert all(output.startswith("Error: bad arguments for ui_ask") for output in outputs)
    assert world.outbox.actions == []


def test_a_prefix_alone_does_not_make_a_page_tool(workers: Workers) -> None:
    """A `ui_` tool that the run does not offer is the plugins' to answer."""
    world = World(workers)

    assert world.run(call("ui_other")) == ["ui_other done"]
    assert world.outbox.actions == []


@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000])
def test_arguments_that_are_none(text: str) -> None:
    """The model is told what is wrong; no plugin is asked."""
    assert parse_arguments(text)[1] is not None


def test_no_arguments_are_none() -> None:
    """Models write nothing for a tool without parameters."""
    assert parse_arguments("") == ({}, None)


@pytest.mark.parametrize(
    ("state", "output", "says"),
    [("done", "7", "7"), ("started", None, "may have taken effect"), ("pending", None, "Not run")],
)
def test_what_a_cut_call_leaves(state: CallState, output: str | None, says: str) -> None:
    """A result that is there counts; a payment under way must not be repeated."""
    left = cut_output(CallRecord(key=(1, 0), call_id="c", name="pay", state=state, arguments="{}", output=output))

    assert left["call_id"] == "c"
    assert says in left["output"]
