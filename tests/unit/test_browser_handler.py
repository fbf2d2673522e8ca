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
from bf_plugin.doctor.gateway import trial_message

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


LOST = """
const before = new BFAssistant.RunView({ runId: "run_1", threadId: "thread_1", seq: 1 });
before.accept(args.called);
const { fetch, requests } = fakeGateway({ [args.events]: [200, { events: [] }], "/llm/tool-response": [200, {}] });
const tools = { setTheme: () => "done" };
const options = { fetch, tools, timing: { call: 0 } };
const posted = () => requests.filter((request) => request.body).map((request) => request.body);
"""
CALLED = event(2, "function_call", content={"functions": []}, calls=[{"name": "ui_setTheme", "toolCallId": "tool_9"}])
EVENTS = f"{ASSISTANTS}/runs/run_1/events"


def test_a_reloaded_page_answers_the_calls_it_lost(node: Node) -> None:
    """A browser tool whose call came before the reload is answered as a failure, so that the run goes on."""
    code = """
    await new BFAssistant.Assistant(options).resume(before.snapshot());
    await until(() => posted().length);
    return posted();
    """
    (body,) = node.run(LOST + code, called=CALLED, events=EVENTS)
    assert (body["toolCallId"], body["success"]) == ("tool_9", False)


def test_a_page_may_take_up_a_call_it_lost(node: Node) -> None:
    """`lostCall` gets the call with what is known of it, and its value is the answer."""
    code = """
    const first = new BFAssistant.Assistant({ ...options, fetch: () => new Promise(() => {}) });
    first.handle({ ...args.called, type: "threadInfo", seq: 1, calls: [] });
    first.handle(args.called);
    first.handleToolCall({ functions: [{ name: "setTheme", arguments: "{}" }], toolCallId: "tool_9" });
    const seen = [];
    const lostCall = (call) => { seen.push(call); return "taken up"; };
    const second = new BFAssistant.Assistant({ ...options, lostCall });
    await second.resume(JSON.parse(JSON.stringify(first.run.snapshot())));
    await until(() => posted().length);
    await second.resume(first.run.snapshot());
    await new Promise((done) => setTimeout(done, 10));
    return { seen, posted: posted() };
    """
    seen = node.run(LOST + code, called=CALLED, events=EVENTS)
    functions = [{"name": "setTheme", "arguments": "{}"}]
    assert seen["seen"] == [{"name": "ui_setTheme", "toolCallId": "tool_9", "functions": functions}]
    assert seen["posted"] == [{"toolCallId": "tool_9", "success": True, "message": "taken up", "data": None}]


@pytest.mark.parametrize("arrives", [True, False], ids=["the call arrives", "a tool of somebody else"])
def test_a_call_is_not_lost(node: Node, arrives: bool) -> None:
    """A call that arrives, or whose tool this page does not have, is not answered as lost."""
    code = """
    const assistant = new BFAssistant.Assistant({ ...options, tools: args.arrives ? tools : {} });
    await assistant.resume(before.snapshot());
    const call = { functions: [{ name: "setTheme", arguments: "{}" }], toolCallId: "tool_9" };
    if (args.arrives) assistant.handleToolCall(call);
    await new Promise((done) => setTimeout(done, 10));
    return posted().map((body) => body.message);
    """
    assert node.run(LOST + code, called=CALLED, events=EVENTS, arrives=arrives) == (["done"] if arrives else [])


def test_calls_go_to_the_plugin_of_another_origin(node: Node) -> None:
    """With a base, answers are posted below the endpoint, which answers preflights."""
    code = """
    const { fetch, requests } = fakeGateway({ "https://b/stream/create/assistants/tool-response": [200, {}] });
    const assistant = new BFAssistant.Assistant({ base: "https://b", fetch, tools: { say: () => "said" } });
    await assistant.handleToolCall({ functions: [{ name: "say", arguments: "" }], toolCallId: "tool_1" });
    return requests.map((request) => request.path);
    """
    assert node.run(code) == [f"https://b{ASSISTANTS}/tool-response"]


def test_a_run_nobody_tells_of_is_given_up_and_taken_up_again(node: Node) -> None:
    """Without an endpoint to ask, a silent run does not look busy for ever; what comes after all still counts."""
    code = """
    const { log, callbacks } = recorder();
    const { fetch } = fakeGateway({});
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetch, timing: { gap: [0], quiet: 5, patience: 20 } });
    await assistant.resume({ ...args.run, text: "half", seq: 2 });
    await until(() => log.length);
    const busy = assistant.busy;
    assistant.handle(args.late);
    return { log, busy, after: assistant.busy, text: assistant.run.text };
    """
    seen = node.run(code, run=RUN, late=event(3, "delta", content=" and half", offset=4))
    given_up = ["onEnd", {"finishReason": "unknown", "usage": None, "complete": False}]
    assert seen["log"] == [given_up, ["onText", "half and half"]]
    assert (seen["busy"], seen["after"], seen["text"]) == (False, True, "half and half")


def test_a_purged_run_is_given_up_at_once(node: Node) -> None:
    """The plugin's own 404 says that nothing will come any more: shown is what there is."""
    code = """
    const { log, callbacks } = recorder();
    const { fetch, requests } = fakeGateway({ [args.path]: [404, { errors: { runId: "is not known" } }] });
    const assistant = new BFAssistant.Assistant({ ...callbacks, fetch });
    await assistant.resume({ ...args.run, text: "half", seq: 2 });
    return { log, requests: requests.length };
    """
    seen = node.run(code, path=EVENTS, run=RUN)
    assert [value["finishReason"] for _, value in seen["log"]] == ["unknown"]
    assert seen["requests"] == 1


def test_an_ended_run_is_resumed_without_asking(node: Node) -> None:
    """A page that is reloaded after the end has all there is."""
    _, events = conversation(["whole"])
    code = """
    const before = new BFAssistant.RunView({ runId: "run_1" });
    for (const event of args.events) before.accept(event);
    const { fetch, requests } = fakeGateway({});
    const assistant = new BFAssistant.Assistant({ fetch });
    const run = await assistant.resume(before.snapshot());
    return [run.text, assistant.busy, requests.length];
    """
    assert node.run(code, events=events) == ["whole", False, 0]


SERVER = """
const { log, callbacks } = recorder();
const bytes = (event) => new TextEncoder().encode(`id: ${event.seq}\ndata: ${JSON.stringify(event)}\n\n: here\n\n`);
const asked = { live: 0, json: 0, down: 0 };
let pending = [...args.troubles];
// The plugin's endpoint: what is committed as JSON, or as a stream in pieces of any size, which may be cut anywhere.
async function fetch(path, { headers, signal }) {
  const after = Number(new URL(path, "http://h").searchParams.get("after"));
  const rest = args.events.filter((event) => event.seq > after);
  const trouble = pending.shift() ?? {};
  if (trouble.down) { asked.down += 1; throw new TypeError("fetch failed"); }
  if (trouble.status) { asked.down += 1; return new Response("busy", { status: trouble.status }); }
  if (headers.Accept !== "text/event-stream") {
    asked.json += 1;
    // What was sent had been committed before.
    const committed = rest.filter((event) => event.seq <= (args.committed ?? 0)).length;
    const body = JSON.stringify({ events: rest.slice(0, Math.max(trouble.known ?? rest.length, committed)) });
    return new Response(trouble.cut ? body.slice(0, -3) : body, { status: 200 });
  }
  asked.live += 1;
  const whole = new Uint8Array(rest.flatMap((event) => [...bytes(event)]));
  const known = whole.slice(0, trouble.cut ?? whole.length);
  let at = 0;
  const pull = (line) => {
    if (at < known.length) line.enqueue(known.slice(at, (at += args.piece)));
    else if (trouble.broken) line.error(new TypeError("network error"));
    else line.close();
  };
  return new Response(new ReadableStream({ pull }), { headers: { "Content-Type": "text/event-stream" } });
}
const timing = { gap: [0, 0, 0], quiet: 2, retry: [0, 1] };
const options = { ...callbacks, fetch, timing };
"""

troubles = st.lists(
    st.fixed_dictionaries({"down": st.just(True)})
    | st.fixed_dictionaries({"status": st.sampled_from([429, 500, 502, 503])})
    | st.fixed_dictionaries({"known": st.integers(0, 3)})
    | st.fixed_dictionaries({"cut": st.integers(1, 400), "broken": st.booleans()}),
    max_size=8,
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), run=parts.map(conversation), troubles=troubles, piece=st.integers(1, 80))
def test_a_lossy_socket_a_reload_and_a_restart_lose_nothing(
    node: Node, data: st.DataObject, run: tuple[str, list[dict[str, Any]]], troubles: list[Any], piece: int
) -> None:
    """Events lost and doubled, a reload between any two, an endpoint that fails and breaks off: all text, once."""
    text, events = run
    heard = data.draw(st.lists(st.sampled_from(events), max_size=8))
    split = data.draw(st.integers(0, len(heard)))
    code = """
    const before = new BFAssistant.RunView({ runId: "run_1", threadId: "thread_1" });
    for (const event of args.heard.slice(0, args.split)) before.accept(event);
    const snapshot = JSON.parse(JSON.stringify(before.snapshot()));
    const assistant = new BFAssistant.Assistant(options);
    const resumed = assistant.resume(snapshot);
    const { run } = assistant;
    for (const event of args.heard.slice(args.split)) {
      assistant.handle(event);
      await new Promise((done) => setTimeout(done, 0));
    }
    await resumed;
    await until(() => run.ended);
    return { text: run.text, complete: run.complete, gap: run.gap, ended: before.ended, log };
    """
    trouble = {"troubles": troubles, "committed": max((event["seq"] for event in heard), default=0)}
    seen = node.run(SERVER + code, events=events, heard=heard, split=split, piece=piece, **trouble)
    assert (seen["text"], seen["complete"], seen["gap"]) == (text, True, False)
    assert all(text.startswith(value) for name, value in seen["log"] if name == "onText")
    assert [name for name, _ in seen["log"]].count("onEnd") == (0 if seen["ended"] else 1)


def test_follows_on_a_line_of_its_own_until_messages_flow(node: Node) -> None:
    """After a silence with lost messages the events are streamed; the next message of the gateway ends that."""
    _, events = conversation(["one ", "two ", "three"])
    code = """
    const follows = [];
    const line = async function* (signal) {
      yield args.events[2];
      await new Promise((resolve, reject) => {
        signal.addEventListener("abort", () => reject(new BFAssistant.AssistantError("cut")));
      });
    };
    const fetchMissed = async (run, after, { live, signal }) => {
      if (!live) return args.events.filter((event) => event.seq > after && event.seq <= 2);
      follows.push(signal);
      return line(signal);
    };
    const assistant = new BFAssistant.Assistant({ fetchMissed, timing: { quiet: 10 } });
    assistant.handle(args.events[0]);
    await until(() => assistant.run.text === "one two ");
    const open = follows.map((signal) => signal.aborted);
    assistant.handle(args.events[3]);
    await until(() => follows[0].aborted);
    return { open, text: assistant.run.text };
    """
    assert node.run(code, events=events) == {"open": [False], "text": "one two three"}


def test_a_gateway_that_stays_away_is_not_waited_for_for_ever(node: Node) -> None:
    """When nobody can be reached for long, what there is behind a hole is shown, and a silent run is given up."""
    _, events = conversation(["one ", "two ", "three"])
    code = """
    const run = async (heard) => {
      const { log, callbacks } = recorder();
      const fetch = async () => { throw new TypeError("fetch failed"); };
      const timing = { gap: [0], quiet: 2, retry: [1], patience: 20 };
      const assistant = new BFAssistant.Assistant({ ...callbacks, fetch, timing });
      for (const event of heard) assistant.handle(event);
      await until(() => log.at(-1)?.[0] === "onEnd");
      return [assistant.run.text, log.at(-1)[1].finishReason, assistant.run.complete];
    };
    const [first, second, third, fourth, end] = args.events;
    return [await run([first, second, fourth, end]), await run([first, second])];
    """
    assert node.run(code, events=events) == [["one …three", "stop", False], ["one ", "unknown", False]]


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
