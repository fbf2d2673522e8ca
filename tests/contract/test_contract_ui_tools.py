"""Browser tools: what the page gets, what is refused, and who wins between answer, timeout and stop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from bf_plugin import RunDraft, hookimpl
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import Gate, call, text

Deploy = Callable[..., Deployment]

SHOW = {
    "type": "object",
    "properties": {"colour": {"type": "string"}, "deep": {"type": "object", "properties": {"n": {"type": "number"}}}},
}
BOTH_ROUTES = pytest.mark.parametrize("route", ["/tool-response", "/llm/tool-response"])


def tool(name: str = "ui_show", parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a tool definition as a caller sends it."""
    return {"type": "function", "function": {"name": name, "parameters": SHOW if parameters is None else parameters}}


def called(deployed: Deployment, arguments: Any, then: Any = "Done") -> dict[str, Any]:
    """Start a run whose model calls `ui_show`; return it."""
    deployed.provider.script([call("ui_show", arguments)], then)
    return deployed.start("Show", tools=[tool()])


def action_of(deployed: Deployment, number: int = 0) -> dict[str, Any]:
    """Wait for a page's tool call and return its options."""
    actions = deployed.gateway.wait_for(
        lambda: len(found := deployed.gateway.actions("llmToolCall")) > number and found
    )
    options: dict[str, Any] = actions[number]["options"]  # type: ignore[index]
    return options


def outputs(deployed: Deployment) -> list[str]:
    """Return the outputs the model was given last."""
    return [item["output"] for item in deployed.asked[-1]["input"] if item["type"] == "function_call_output"]


# -- the call


def test_call(deployed: Deployment) -> None:
    """A call is one `llmToolCall` action without seq, its name without prefix, its arguments as JSON text."""
    run = called(deployed, {"colour": "red", "deep": {"n": 1}})

    options = action_of(deployed)
    (sent,) = deployed.gateway.actions("llmToolCall")
    assert sent == {
        "action": "llmToolCall",
        "options": {
            "functions": [{"name": "show", "arguments": options["functions"][0]["arguments"]}],
            "toolCallId": options["toolCallId"],
        },
    }
    assert json.loads(options["functions"][0]["arguments"]) == {"colour": "red", "deep": {"n": 1}}
    assert re.fullmatch(r"[A-Za-z0-9_-]{27,}", options["toolCallId"])
    deployed.post("/tool-response", {"toolCallId": options["toolCallId"], "success": True})

    events = deployed.events(run)
    assert [event["type"] for event in events] == ["threadInfo", "function_call", "delta", "end"]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    (event,) = [event for event in events if event["type"] == "function_call"]
    assert event["content"] == {"functions": [{"name": "ui_show", "userMessage": None}]}
    assert event["calls"] == [{"name": "ui_show", "toolCallId": options["toolCallId"]}]


def test_keep_prefix(deploy: Deploy) -> None:
    """`BF_UI_TOOL_KEEP_PREFIX` leaves the prefix on."""
    deployed = deploy(ui_tool_keep_prefix=True)
    called(deployed, {})

    options = action_of(deployed)

    assert options["functions"][0]["name"] == "ui_show"
    deployed.post("/tool-response", {"toolCallId": options["toolCallId"]})


def test_parallel_calls(deployed: Deployment) -> None:
    """Each call is an action of its own with its own id; each answer reaches its own call."""
    deployed.provider.script([call("ui_show", {"colour": colour}) for colour in ("red", "blue")], "Done")
    run = deployed.start(tools=[tool()])
    asked = [action_of(deployed, 1), action_of(deployed, 0)]
    assert asked[0]["toolCallId"] != asked[1]["toolCallId"]

    for options in asked:
        colour = json.loads(options["functions"][0]["arguments"])["colour"]
        deployed.post("/tool-response", {"toolCallId": options["toolCallId"], "data": colour})

    deployed.events(run)
    assert [json.loads(output)["data"] for output in outputs(deployed)] == ["red", "blue"]


def test_only_listed_tools(deployed: Deployment) -> None:
    """A `ui_` name that this run's tools do not list never reaches the page."""
    deployed.provider.script([call("ui_other", {"colour": "red"})], "Done")
    run = deployed.start(tools=[tool()])

    deployed.events(run)

    assert deployed.gateway.actions("llmToolCall") == []
    assert outputs(deployed)[0].startswith("Error: ")


def test_a_name_is_needed(deployed: Deployment) -> None:
    """`ui_` alone is no browser tool: nothing would be left of its name. It may be listed like any other."""
    deployed.provider.script([call("ui_", {})], "Done")

    assert deployed.poll(tools=[tool("ui_")])["status"] == "done"
    assert deployed.gateway.actions("llmToolCall") == []


def test_polling_runs_have_no_page(deploy: Deploy) -> None:
    """Where a hook offers a `ui_` tool to a run that polls, the model is told that there is no such tool."""

    class Offering:
        @hookimpl
        def before_run(self, run: RunDraft) -> None:
            run.tools.append({"type": "function", "name": "ui_show", "parameters": SHOW})

    deployed = deploy(plugins=[Offering()], ui_tool_timeout=0.05)
    deployed.provider.script([call("ui_show", {"colour": "red"})], "Done")

    assert deployed.poll()["status"] == "done"

    assert outputs(deployed)[0].startswith("Error: unknown tool ui_show")
    assert deployed.gateway.attempts == []


# -- arguments


@pytest.mark.parametrize(
    "arguments",
    [
        {"unknown": 1},
        {"colour": 7},
        {"deep": {"unknown": 1}},
        {"colour": {"x_calc": "alert(1)"}},
        {"function": "x"},
        {"deep": {"n_calcf": 1}},
        {"deep": {"a_function": 1}},
        {"deep": {"a_actions": []}},
        "[]",
        "{",
        '{"colour": NaN}',
        '"red"',
    ],
)
def test_refused_arguments(deployed: Deployment, arguments: Any) -> None:
    """Arguments that do not match, unknown properties and keys a page evaluates are refused to the model."""
    run = called(deployed, arguments)

    events = deployed.events(run)

    assert deployed.gateway.actions("llmToolCall") == []
    assert outputs(deployed)[0].startswith("Error: bad arguments for ui_show")
    assert [event["type"] for event in events] == ["threadInfo", "function_call", "delta", "end"]
    assert "calls" not in events[1]


def test_loose_schemas_do_not_help(deployed: Deployment) -> None:
    """A schema that allows any property lets none through that it does not name."""
    loose = {"type": "object", "additionalProperties": True, "properties": {"a": {"type": "object"}}}
    deployed.provider.script([call("ui_show", {"a": {"b": 1}})], "Done")
    run = deployed.start(tools=[tool(parameters=loose)])

    deployed.events(run)

    assert deployed.gateway.actions("llmToolCall") == []
    assert outputs(deployed)[0].startswith("Error: bad arguments")


@pytest.mark.parametrize("key", ["x_calc", "x_calcf", "x_function", "x_actions", "function"])
@pytest.mark.parametrize("nested", [False, True])
def test_refused_schemas(deployed: Deployment, key: str, nested: bool) -> None:
    """A caller's `ui_` schema with a property that pages evaluate is 400."""
    properties: dict[str, Any] = {key: {"type": "string"}}
    if nested:
        properties = {"a": {"type": "array", "items": {"type": "object", "properties": properties}}}

    error = deployed.refused(400, deployed.body(tools=[tool(parameters={"type": "object", "properties": properties})]))

    assert list(error["errors"]) == ["payload.tools.0.function.parameters"]
    assert key in error["message"]


@pytest.mark.parametrize("keyword", ["anyOf", "prefixItems"])
def test_refused_schemas_in_lists(deployed: Deployment, keyword: str) -> None:
    """A schema is looked through to its last corner, lists of schemas too."""
    hidden = {keyword: [{"type": "object", "properties": {"x_calc": {"type": "string"}}}]}

    error = deployed.refused(
        400, deployed.body(tools=[tool(parameters={"type": "object", "properties": {"a": hidden}})])
    )

    assert "x_calc" in error["errors"]["payload.tools.0.function.parameters"]


def test_other_tools_may_have_such_properties(deployed: Deployment) -> None:
    """Only pages evaluate keys: a tool of the server may have any."""
    deployed.provider.script("Hello")
    schema = {"type": "object", "properties": {"x_calc": {"type": "string"}}}

    run = deployed.start(tools=[tool("show", schema)])

    assert deployed.events(run)[-1]["finish_reason"] == "stop"


# -- the answer


@BOTH_ROUTES
def test_answer(deployed: Deployment, route: str) -> None:
    """Both routes take the answer; all its keys but the id become the tool's output."""
    run = called(deployed, {"colour": "red"})
    call_id = action_of(deployed)["toolCallId"]
    said = {"success": True, "message": "shown", "data": {"a": [1, "ü"]}, "extra": None}

    answer = deployed.post(route, {"toolCallId": call_id, **said})

    assert (answer.status_code, answer.json()["success"]) == (200, True)
    deployed.events(run)
    assert [json.loads(output) for output in outputs(deployed)] == [said]
    assert call_id not in outputs(deployed)[0]


@BOTH_ROUTES
def test_first_answer_wins(deployed: Deployment, route: str) -> None:
    """A later answer gets 200 and is ignored, also after the run's end."""
    run = called(deployed, {}, then="Done")
    call_id = action_of(deployed)["toolCallId"]

    first = deployed.post(route, {"toolCallId": call_id, "data": 1})
    second = deployed.post(route, {"toolCallId": call_id, "data": 2})
    deployed.events(run)
    third = deployed.post(route, {"toolCallId": call_id, "data": 3})

    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 200]
    assert [answer.json()["status"] for answer in (first, second, third)] == ["accepted", "ignored", "ignored"]
    assert [json.loads(output)["data"] for output in outputs(deployed)] == [1]


def test_time_out(deploy: Deploy) -> None:
    """A page that does not answer in time loses: the model is told, a late answer is ignored."""
    deployed = deploy(ui_tool_timeout=0.2)
    run = called(deployed, {})

    events = deployed.events(run)

    assert events[-1]["finish_reason"] == "stop"
    assert "did not answer" in outputs(deployed)[0]
    late = deployed.post("/tool-response", {"toolCallId": action_of(deployed)["toolCallId"], "data": 1})
    assert (late.status_code, late.json()["status"]) == (200, "ignored")


def test_default_time_out(deployed: Deployment) -> None:
    """The page has 90 seconds."""
    assert deployed.settings.ui_tool_timeout == 90.0


def test_stop_wins(deployed: Deployment) -> None:
    """A stop while the page thinks ends the run; the late answer is ignored and the thread works."""
    run = called(deployed, {})
    call_id = action_of(deployed)["toolCallId"]

    assert deployed.stop(run)["status"] == "cancelled"
    assert deployed.events(run)[-1]["finish_reason"] == "cancelled"
    late = deployed.post("/tool-response", {"toolCallId": call_id, "data": 1})

    assert (late.status_code, late.json()["status"]) == (200, "ignored")
    deployed.provider.reset()
    deployed.provider.script("Fine")
    again = deployed.start("And?", thread_id=run["threadId"])
    assert deployed.events(again)[-1]["finish_reason"] == "stop"


@BOTH_ROUTES
@pytest.mark.parametrize("body", [{}, {"toolCallId": 7}, {"toolCallId": ""}])
def test_without_an_id(deployed: Deployment, route: str, body: dict[str, Any]) -> None:
    """Without an id our own route answers 400; on the shared one the host decides."""
    answer = deployed.post(route, body)

    if route.startswith("/llm"):
        assert (answer.status_code, answer.json()["message"]) == (404, "Page not found")
    else:
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["toolCallId"])


def test_unknown_id_on_our_route(deployed: Deployment) -> None:
    """An id nobody gave out is 404 on our own route."""
    deployed.refused(404, {"toolCallId": "tool_" + "x" * 28}, "/tool-response")


class Host(RecordingGateway):
    """A gateway with an LLM Query of its own, which keeps what it is answered."""

    def __init__(self) -> None:
        super().__init__(keys=[APP_KEY])
        self.answers: list[bytes] = []

    def route(self, method: str, path: str, environ: Any) -> Any:
        """Take tool responses too."""
        if (method, path) != ("POST", "/llm/tool-response"):
            return super().route(method, path, environ)
        self.answers.append(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        return 201, "application/json", [b'{"host": true}']


@pytest.mark.parametrize(
    "body",
    [
        b'{"toolCallId": "call_of_the_host", "data": 1}',
        b'{"toolCallId":"tool_0123456789012345678901234567"}',
        b'{ "no id" : true }',
        b"not json at all",
        b"[1, 2]",
        b'{"toolCallId": "call_big", "data": "' + b"x" * 2_000_000 + b'"}',
    ],
    ids=lambda body: str(body[:20]),
)
def test_the_hosts_own_answers(deploy: Deploy, body: bytes) -> None:
    """What is not for a call of ours goes to the host app with its body intact, whatever it is."""
    host = Host()
    deployed = deploy(gateway=host)
    deployed.provider.script("Hello")
    deployed.poll()

    url = deployed.url + "/llm/tool-response"
    answer = deployed.http.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=30)

    assert (answer.status_code, answer.json()) == (201, {"host": True})
    assert host.answers == [body]


def test_ours_do_not_reach_the_host(deploy: Deploy) -> None:
    """What is for a call of ours is not seen by the host app."""
    host = Host()
    deployed = deploy(gateway=host)
    run = called(deployed, {})

    deployed.post("/llm/tool-response", {"toolCallId": action_of(deployed)["toolCallId"]})

    deployed.events(run)
    assert host.answers == []


def test_ui_and_server_tools_in_one_step(deployed: Deployment) -> None:
    """Calls of one step are announced together, whoever runs them; only `ui_` ones are listed with ids."""
    gate = Gate()
    deployed.provider.script([call("nobody"), call("ui_show", {})], text(gate, "Done"))
    run = deployed.start(tools=[tool(), tool("nobody")])
    options = action_of(deployed)
    deployed.post("/tool-response", {"toolCallId": options["toolCallId"], "ok": 1})
    gate.wait_reached()
    gate.release()

    (event,) = [event for event in deployed.events(run) if event["type"] == "function_call"]

    assert [function["name"] for function in event["content"]["functions"]] == ["nobody", "ui_show"]
    assert event["calls"] == [{"name": "ui_show", "toolCallId": options["toolCallId"]}]
