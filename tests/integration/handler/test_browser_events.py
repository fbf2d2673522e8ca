"""The page's handler, run in Node.js: events in any order and number give the same text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.doctor.gateway import trial_message
from nodes import ASSISTANTS, RUN, Node, conversation, event, parts, units


def shuffled(events: list[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Every event at least once, in any order."""
    return st.lists(st.sampled_from(events), max_size=6).flatmap(lambda extra: st.permutations(events + extra))


deliveries = parts.map(conversation).flatmap(lambda run: st.tuples(st.just(run), shuffled(run[1])))


VIEW = """
const log = [], texts = [];
const view = new BFAssistant.RunView({ runId: "run_1" }, (type, run, event) => {
  if (type === "text") texts.push(run.text); else log.push(event.seq);
});
for (const event of args.events) view.accept(event);
return { text: view.text, length: view.length, texts, log, gap: view.gap, ended: view.ended, next: view.next,
         threadId: view.threadId };
"""


@settings(max_examples=150, deadline=None)
@given(delivery=deliveries)
def test_any_order_and_duplication_gives_the_same_text(
    node: Node, delivery: tuple[tuple[str, list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    """Each character once, other events once and in order, and at no moment a text with a hole."""
    (text, events), delivered = delivery
    seen = node.run(VIEW, events=delivered)
    assert (seen["text"], seen["length"]) == (text, units(text))
    assert seen["log"] == [one["seq"] for one in events if one["type"] != "delta"]
    assert all(text.startswith(shown) for shown in seen["texts"])
    assert (seen["gap"], seen["ended"], seen["next"]) == (False, True, len(events) + 1)
    assert seen["threadId"] == "thread_1"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), run=parts.map(conversation))
def test_fetching_what_was_lost_completes_the_run(
    node: Node, data: st.DataObject, run: tuple[str, list[dict[str, Any]]]
) -> None:
    """Whatever was lost before the last event that arrived, the fetched events make the text whole."""
    text, events = run
    kept = data.draw(st.lists(st.sampled_from(events), unique_by=lambda one: one["seq"]))
    code = """
    const { log, callbacks } = recorder();
    const fetchMissed = async (run, after) => args.events.filter((event) => event.seq > after);
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetchMissed, timing: { gap: [0, 0, 0] } });
    for (const event of args.kept) assistant.handle(event);
    assistant.handle(args.events.at(-1));
    await until(() => assistant.run?.ended ?? log.some(([name]) => name === "onEnd"));
    return log;
    """
    log = node.run(code, events=events, kept=kept)
    texts = [value for name, value in log if name == "onText"]
    assert (texts[-1] if texts else "") == text
    assert log[-1] == ["onEnd", {"finishReason": "stop", "usage": {"total_tokens": 3}, "complete": True}]
    assert [name for name, _ in log].count("onEnd") == 1


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_the_doctors_message_does_nothing(node: Node, style: str) -> None:
    """The test message of `bf-plugin doctor` is no event of a run, whether one is under way or not."""
    message = json.loads(trial_message(style))
    code = """
    const { log, callbacks } = recorder();
    const assistant = new BFAssistant.Assistant({ ...callbacks, actionName: "handleAssistantResponse" });
    assistant.handleMessage(args.message);
    const before = assistant.run;
    assistant.handle(args.event);
    const told = log.length;
    assistant.handleMessage(args.message);
    return { before, told, after: log.length, text: assistant.run.text };
    """
    seen = node.run(code, message=message, event=event(1, "delta", content="Hi", offset=0))

    assert seen["before"] is None
    assert (seen["told"], seen["text"]) == (seen["after"], "Hi")


def test_a_hole_that_nobody_can_fill_is_shown(node: Node) -> None:
    """Without the fetch endpoint (404) the rest is shown after an ellipsis and the end says it is incomplete."""
    _, events = conversation(["one ", "two ", "three"])
    code = """
    const { log, callbacks } = recorder();
    const { fetch, requests } = fakeGateway({});
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetch, timing: { gap: [0, 0, 0] } });
    for (const event of args.events) assistant.handle(event);
    await until(() => log.at(-1)[0] === "onEnd");
    return { log, requests };
    """
    seen = node.run(code, events=[one for one in events if one["seq"] != 3])
    assert [value for name, value in seen["log"] if name == "onText"] == ["one ", "one …three"]
    assert seen["log"][-1][1]["complete"] is False
    first = seen["requests"][0]
    assert (first["path"], first["headers"]["X-Thread-Id"]) == (f"{ASSISTANTS}/runs/run_1/events?after=2", "thread_1")


def test_understands_every_event_style(node: Node) -> None:
    """Options, data and both, as messages of several actions, and actions that are not for it."""
    _, events = conversation(["a", None, "b"])
    error = event(5, "error", error={"message": "m", "code": "provider_error", "details": "d"}, content="m")
    options = [events[0], {"data": events[1]}, {**events[2], "data": events[2]}, {"data": events[3]}, error]
    actions = [{"action": "namedAction", "name": "handle", "options": one} for one in options]
    other = [{"action": "namedAction", "name": "other", "options": events[1]}, {"action": "showAlert"}]
    code = """
    const { log, callbacks } = recorder();
    const assistant = new BFAssistant.Assistant({ ...callbacks, actionName: "handle" });
    assistant.handleMessage({ actions: args.actions });
    assistant.handleMessage({});
    return log;
    """
    assert node.run(code, actions=actions + other) == [
        ["onThread", RUN],
        ["onText", "a"],
        ["onTool", [{"name": "tool2", "userMessage": None}]],
        ["onText", "ab"],
        ["onError", {"message": "m", "code": "provider_error", "details": "d"}],
    ]


def test_understands_events_without_our_additions(node: Node) -> None:
    """A gateway that knows only the published events has no seq, offset or ids: text is appended."""
    code = """
    const { log, callbacks } = recorder();
    const assistant = new BFAssistant.Assistant({ ...callbacks });
    assistant.handle({ type: "threadInfo", content: { assistantThreadId: "t", runId: "r" } });
    for (const content of ["a", "b"]) assistant.handle({ type: "delta", content });
    assistant.handle({ type: "end" });
    return { log, threadId: assistant.threadId };
    """
    seen = node.run(code)
    assert seen["threadId"] == "t"
    assert seen["log"] == [
        ["onThread", {"threadId": "t", "runId": "r"}],
        ["onText", "a"],
        ["onText", "ab"],
        ["onEnd", {"finishReason": "stop", "usage": None, "complete": True}],
    ]
