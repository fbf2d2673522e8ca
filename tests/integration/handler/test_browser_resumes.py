"""The page's handler, run in Node.js: reloads, restarts, and what was lost meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes import ASSISTANTS, RUN, Node, conversation, event, parts


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
