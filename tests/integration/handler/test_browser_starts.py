"""The page's handler, run in Node.js: starts, stops, and the tools of the page."""

from __future__ import annotations

from typing import Any

import pytest

from nodes import RUN, Node, event

START = {"success": True, **RUN, "status": "created"}


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
