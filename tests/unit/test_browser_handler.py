"""The page's handler, run in node: events in any order and number, and what it sends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bf_plugin

HANDLER = Path(bf_plugin.__file__).with_name("browser") / "handler.js"
DRIVER = Path(__file__).with_name("browser_driver.mjs")
RUN = {"threadId": "thread_1", "runId": "run_1"}
START = {"success": True, **RUN, "status": "created"}
ASSISTANTS = "/stream/create/assistants"


class Node:
    """One node process that has loaded the handler."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(DRIVER), str(HANDLER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str, **args: Any) -> Any:
        """Run the body of an async JavaScript function and return what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "args": args}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    process = Node()
    yield process
    process.close()


def event(seq: int, kind: str, **rest: Any) -> dict[str, Any]:
    return {"type": kind, **rest, **RUN, "seq": seq}


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def conversation(parts: list[str | None]) -> tuple[str, list[dict[str, Any]]]:
    """Return the text and the events of a run: a delta for each string, a function_call for each None."""
    text, events = "", [event(1, "threadInfo", content={"assistantThreadId": "thread_1", "runId": "run_1"})]
    for part in parts:
        if part is None:
            functions = [{"name": f"tool{len(events)}", "userMessage": None}]
            events.append(event(len(events) + 1, "function_call", content={"functions": functions}))
        else:
            events.append(event(len(events) + 1, "delta", content=part, offset=units(text)))
            text += part
    events.append(event(len(events) + 1, "end", finish_reason="stop", usage={"total_tokens": 3}))
    return text, events


def shuffled(events: list[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Every event at least once, in any order."""
    return st.lists(st.sampled_from(events), max_size=6).flatmap(lambda extra: st.permutations(events + extra))


parts = st.lists(st.none() | st.text(min_size=1, max_size=6) | st.sampled_from(["🌦️", "👩‍👩‍👧", "𝒳y"]), max_size=8)
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


def test_starts_and_continues_a_conversation(node: Node) -> None:
    """The first start has no thread, the next one continues it, over a reload too; `newThread` begins another."""
    code = """
    const storage = new Storage();
    const { fetch, requests } = fakeGateway({ "/stream/create/assistants": [201, args.answer] });
    const options = { apiKey: "BFAPI_demo", channels: ["c"], actionName: "handle", payload: { model: "m" }, storage,
                      fetch };
    const assistant = new BFAssistant.Assistant(options);
    await assistant.start("Hello", { instructions: "Be brief." });
    assistant.handle(args.end);
    const reloaded = new BFAssistant.Assistant(options);
    await reloaded.start("Again");
    reloaded.newThread();
    await reloaded.start([{ role: "user", content: "New" }]);
    return requests.map((request) => request.body);
    """
    bodies = node.run(code, answer=START, end=event(1, "end", finish_reason="stop"))
    assert bodies[0] == {
        "apiKey": "BFAPI_demo",
        "channels": ["c"],
        "actionName": "handle",
        "payload": {
            "model": "m",
            "instructions": "Be brief.",
            "stream": True,
            "messages": [{"role": "user", "content": "Hello"}],
        },
    }
    assert [body["payload"].get("thread_id") for body in bodies] == [None, "thread_1", None]


def test_events_may_overtake_the_answer_of_the_start(node: Node) -> None:
    """Events that arrive before the start's 201 belong to the run it names."""
    code = """
    const { log, callbacks } = recorder();
    let answer;
    const fetch = () => new Promise((resolve) => { answer = resolve; });
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetch });
    const started = assistant.start("Hello");
    assistant.handle(args.delta);
    answer(new Response(JSON.stringify(args.answer), { status: 201 }));
    const run = await started;
    return { text: run.text, busy: assistant.busy, log };
    """
    delta = event(1, "delta", content="Hi", offset=0)
    assert node.run(code, answer=START, delta=delta) == {"text": "Hi", "busy": True, "log": [["onText", "Hi"]]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            [401, {"message": "unknown apiKey", "code": 401, "error": {"message": "m", "code": 401, "details": "d"}}],
            {"message": "unknown apiKey", "status": 401, "code": 401, "details": "d"},
        ),
        ([502, "no object"], {"message": "The gateway answered 502.", "status": 502, "code": 502, "details": None}),
        (
            "down",
            {"message": "The gateway cannot be reached.", "status": 0, "code": 0, "details": "TypeError: fetch failed"},
        ),
    ],
)
def test_a_failed_start_says_why(node: Node, answer: Any, expected: dict[str, Any]) -> None:
    """A start that fails rejects with the gateway's words and leaves nothing busy."""
    code = """
    const { fetch } = fakeGateway({ "/stream/create/assistants": args.answer });
    const assistant = new BFAssistant.Assistant({ fetch });
    const { message, status, code, details } = await assistant.start("Hello").catch((error) => error);
    return { error: { message, status, code, details }, busy: assistant.busy };
    """
    assert node.run(code, answer=answer) == {"error": expected, "busy": False}


def test_stops_the_run_under_way_and_one_still_being_started(node: Node) -> None:
    """Stop posts both ids; pressed during the start it waits for them; without a run it does nothing."""
    code = """
    const paths = { "/stream/create/assistants": [201, args.answer],
                    "/stream/create/assistants/stop": [200, { success: true, status: "cancelled" }] };
    const { fetch, requests } = fakeGateway(paths);
    const assistant = new BFAssistant.Assistant({ fetch });
    const idle = await assistant.stop();
    const started = assistant.start("Hello");
    await assistant.stop();
    await started;
    const again = await assistant.stop();
    assistant.handle(args.end);
    return { idle, again, over: await assistant.stop(), requests };
    """
    seen = node.run(code, answer=START, end=event(1, "end", finish_reason="cancelled"))
    assert (seen["idle"], seen["again"]["status"], seen["over"]) == (None, "cancelled", None)
    stops = [one["body"] for one in seen["requests"] if one["path"].endswith("/stop")]
    assert stops == [RUN, RUN]


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


TOOLS = """
const { log, callbacks } = recorder();
const { fetch, requests } = fakeGateway({ "/llm/tool-response": args.answers ?? [200, { success: true }] });
let runs = 0;
const tools = {
  setTheme: async ({ colour }) => { runs += 1; return { was: "blue", now: colour }; },
  say: () => "said",
  fail: () => { throw new Error("no such element"); },
};
const assistant = new BFAssistant.Assistant({ ...callbacks, fetch, tools, actionName: "h", timing: { retry: [0, 0] } });
const call = { action: "llmToolCall", options: { functions: [args.function], toolCallId: "tool_1" } };
for (let copy = 0; copy < (args.copies ?? 1); copy += 1) assistant.handleMessage({ actions: [call] });
await until(() => requests.length >= (args.requests ?? 1));
"""


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        (
            {"name": "setTheme", "arguments": '{"colour": "teal"}'},
            {"success": True, "message": "done", "data": {"was": "blue", "now": "teal"}},
        ),
        ({"name": "ui_say", "arguments": ""}, {"success": True, "message": "said", "data": None}),
        ({"name": "fail", "arguments": "{}"}, {"success": False, "message": "no such element", "data": None}),
        (
            {"name": "toString", "arguments": "{}"},
            {"success": False, "message": "this page has no tool named toString", "data": None},
        ),
    ],
)
def test_answers_browser_tools(node: Node, function: dict[str, str], answer: dict[str, Any]) -> None:
    """A function's value becomes `data`, a string `message`, an exception and an unknown name a failure."""
    requests = node.run(TOOLS + "return requests;", function=function)
    assert [(one["path"], one["body"]) for one in requests] == [
        ("/llm/tool-response", {"toolCallId": "tool_1", **answer})
    ]


def test_arguments_that_are_not_json_are_a_failure(node: Node) -> None:
    """Arguments the page cannot parse are answered, not dropped."""
    (request,) = node.run(TOOLS + "return requests;", function={"name": "say", "arguments": "{"})
    assert request["body"]["success"] is False


def test_a_tool_call_that_arrives_twice_runs_once(node: Node) -> None:
    """The same toolCallId has one effect and one answer."""
    code = TOOLS + "await new Promise((done) => setTimeout(done, 5)); return [runs, requests.length];"
    function = {"name": "setTheme", "arguments": "{}"}
    assert node.run(code, function=function, copies=3) == [1, 1]


def test_a_tool_answer_is_posted_until_it_is_taken(node: Node) -> None:
    """No connection and 5xx are tried again with the same answer; the tool itself is not run again."""
    code = TOOLS + "return [runs, requests.map((request) => request.body)];"
    answers = [["down"], [503, {}], [200, {"success": True}]]
    runs, bodies = node.run(code, function={"name": "setTheme", "arguments": "{}"}, answers=answers, requests=3)
    assert runs == 1
    assert bodies == [bodies[0]] * 3


def test_a_refused_tool_answer_is_reported(node: Node) -> None:
    """A 4xx is final and shown as an error."""
    code = TOOLS + "await until(() => log.length); return log;"
    log = node.run(code, function={"name": "say", "arguments": "{}"}, answers=[400, {"message": "bad", "code": 400}])
    assert log == [["onError", {"message": "bad", "code": 400, "details": None}]]


def test_resumes_after_a_reload(node: Node) -> None:
    """A snapshot of the middle of a run and the fetched rest give the whole text, without the old events again."""
    text, events = conversation(["one ", None, "two ", "three"])
    code = """
    const before = new BFAssistant.RunView({ runId: "run_1" });
    for (const event of args.events.slice(0, 3)) before.accept(event);
    const { log, callbacks } = recorder();
    const fetchMissed = async (run, after) => args.events.filter((event) => event.seq > after);
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetchMissed, timing: { gap: [0] } });
    const run = await assistant.resume(JSON.parse(JSON.stringify(before.snapshot())));
    return { text: run.text, log, threadId: assistant.threadId };
    """
    seen = node.run(code, events=events)
    assert (seen["text"], seen["threadId"]) == (text, "thread_1")
    assert [name for name, _ in seen["log"]] == ["onText", "onText", "onEnd"]


def test_a_reloaded_page_answers_the_calls_it_lost(node: Node) -> None:
    """A browser tool whose call came before the reload is answered as a failure, so that the run goes on."""
    _, (_, called, *_rest) = conversation([None])
    called["content"]["calls"] = [{"name": "setTheme", "toolCallId": "tool_9"}]
    code = """
    const before = new BFAssistant.RunView({ runId: "run_1", threadId: "thread_1", seq: 1 });
    before.accept(args.called);
    const { fetch, requests } = fakeGateway({ "/llm/tool-response": [200, { success: true }] });
    const assistant = new BFAssistant.Assistant({ fetch, timing: { gap: [0] } });
    await assistant.resume(before.snapshot());
    await until(() => requests.some((request) => request.body));
    return requests.find((request) => request.body).body;
    """
    body = node.run(code, called=called)
    assert (body["toolCallId"], body["success"]) == ("tool_9", False)


def test_a_resumed_run_that_stays_silent_is_given_up(node: Node) -> None:
    """Without an endpoint to ask, a run whose end was missed during the reload does not look busy for ever."""
    code = """
    const { log, callbacks } = recorder();
    const { fetch } = fakeGateway({});
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetch, timing: { gap: [0], quiet: 5 } });
    await assistant.resume({ ...args.run, text: "half", seq: 2 });
    await until(() => log.length);
    return { log, busy: assistant.busy };
    """
    assert node.run(code, run=RUN) == {
        "log": [["onEnd", {"finishReason": "unknown", "usage": None, "complete": False}]],
        "busy": False,
    }


def test_a_silent_run_is_asked_after(node: Node) -> None:
    """When the last messages were lost there is no gap to see, so silence makes it fetch."""
    text, events = conversation(["one ", "two"])
    code = """
    const { log, callbacks } = recorder();
    const fetchMissed = async (run, after) => args.events.filter((event) => event.seq > after);
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetchMissed, timing: { quiet: 5 } });
    for (const event of args.events.slice(0, 2)) assistant.handle(event);
    const { run } = assistant;
    await until(() => run.ended);
    return run.text;
    """
    assert node.run(code, events=events) == text


def test_a_callback_that_throws_does_not_stop_the_run(node: Node) -> None:
    """The page's own mistake surfaces as an uncaught error, and the following events are still handled."""
    code = """
    const thrown = [];
    const listener = (error) => thrown.push(error.message);
    process.once("uncaughtException", listener);
    const assistant = new BFAssistant.Assistant({ onText: () => { throw new Error("page bug"); } });
    for (const event of args.events) assistant.handle(event);
    await until(() => thrown.length);
    return thrown;
    """
    _, events = conversation(["one"])
    assert node.run(code, events=events) == ["page bug"]
