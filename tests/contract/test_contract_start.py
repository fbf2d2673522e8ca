"""Starting a run: the request's fields, one by one, and the streaming answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.settings import AppSettings, AssistantSettings
from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY, Deployment
from bf_plugin.testing.provider import call, text
from bf_plugin.values import Run, RunDraft

Deploy = Callable[..., Deployment]

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "getCurrentWeather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            },
            "required": ["location"],
        },
    },
}
FLAT_TOOL = {"type": "function", "name": "flat", "parameters": {"type": "object", "properties": {}}}


def run_url(deployed: Deployment) -> str:
    """Return where runs are started."""
    return deployed.url + "/stream/create/assistants"


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return `body` with the value at a dotted path replaced, or removed where it is `...`."""
    at: Any = body
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key) if isinstance(at, list) else key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return body


# -- the answer


def test_created(deployed: Deployment) -> None:
    """A streaming start is answered 201 with exactly the published keys, and its ids are capabilities."""
    deployed.provider.script("Hello")

    answer = deployed.post("", deployed.body("Hi"))

    assert answer.status_code == 201
    assert answer.headers["Content-Type"].startswith("application/json")
    body = answer.json()
    assert body == {"success": True, "threadId": body["threadId"], "runId": body["runId"], "status": "created"}
    # 160 random bits need at least 27 characters of a url-safe alphabet of 64.
    assert re.fullmatch(r"thread_[A-Za-z0-9_-]{27,57}", body["threadId"])
    assert re.fullmatch(r"run_[A-Za-z0-9_-]{27,60}", body["runId"])


def test_example_request(deploy: Deploy) -> None:
    """The published example, tool included, gives threadInfo, deltas, function_call, deltas, end in that order."""
    deployed = deploy(plugins=[weather()])
    deployed.provider.script(
        [text("Let me ", "look."), call("getCurrentWeather", {"location": "San Francisco, CA"})],
        text("It is ", "sunny."),
    )
    example = {
        "apiKey": APP_KEY,
        "channels": [CHANNEL],
        "actionName": ACTION,
        "payload": {
            "provider": "openai",
            "apiKey": PROVIDER_KEY,
            "stream": True,
            "model": "gpt-4-turbo",
            "instructions": "You are a helpful assistant that provides concise answers.",
            "messages": [{"role": "user", "content": "What's the weather like in San Francisco?"}],
            "tools": [WEATHER_TOOL],
        },
    }

    answer = deployed.post("", example)
    events = deployed.events(answer.json())

    kinds = [event["type"] for event in events]
    assert [kind for before, kind in zip([None, *kinds], kinds, strict=False) if kind != before] == [
        "threadInfo",
        "delta",
        "function_call",
        "delta",
        "end",
    ]
    assert deployed.text(answer.json()) == "Let me look.It is sunny."
    first, second = deployed.asked
    assert first["model"] == "gpt-4-turbo"
    assert first["instructions"] == second["instructions"] == example["payload"]["instructions"]  # type: ignore[index]
    assert [tool["name"] for tool in second["tools"]] == ["getCurrentWeather"]
    assert [(item["type"], item["output"]) for item in second["input"]] == [("function_call_output", "sunny")]


def weather() -> object:
    """Return a plugin that answers the example's tool."""
    from bf_plugin import Toolbox

    tools = Toolbox("weather")

    @tools.tool()
    def getCurrentWeather(location: str) -> str:  # noqa: N802 - the published example's name
        """Get the current weather in a given location."""
        return "sunny"

    return tools


def test_no_event_before_the_answer(deploy: Deploy) -> None:
    """The model has said everything, yet nothing is sent while the answer of the start is still on its way."""
    leaving, arrived = threading.Event(), threading.Event()

    def slow_answers(app: Any) -> Any:
        """Hold the answer of a streaming start between its last byte and its end."""

        def slow(environ: dict[str, Any], start_response: Any) -> Any:
            return Held(app(environ, start_response))

        return slow

    class Held:
        def __init__(self, answer: Any) -> None:
            self._answer = answer

        def __iter__(self) -> Any:
            yield from self._answer
            if not leaving.is_set():
                leaving.set()
                assert arrived.wait(20)

        def close(self) -> None:
            self._answer.close()

    deployed = deploy(wrap=slow_answers)
    deployed.provider.script("Hello", "Second")
    run = deployed.start()
    assert leaving.wait(10)
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["completed"])
    with requests.Session() as meanwhile:  # the first connection is still busy
        polled = meanwhile.post(run_url(deployed), json=deployed.body(stream=False), timeout=20)

    assert polled.json()["status"] == "done"
    assert deployed.gateway.attempts == []
    arrived.set()
    assert [event["type"] for event in deployed.events(run)] == ["threadInfo", "delta", "end"]


def test_every_channel(deployed: Deployment) -> None:
    """Every event goes to every channel; a single string is a list of one."""
    deployed.provider.script("one", "two")
    many = deployed.post("", {**deployed.body(), "channels": ["a", "b", "c"]}).json()
    deployed.events(many)
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {("a", "b", "c")}

    deployed.gateway.clear()
    one = deployed.post("", {**deployed.body(), "channels": "alone"}).json()
    deployed.events(one)
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {("alone",)}


def test_as_much_as_is_allowed(deployed: Deployment) -> None:
    """20 channels of 200 characters and 100 messages are taken, and all of them used."""
    deployed.provider.script("Hello")
    channels = [f"{number:0200}" for number in range(20)]
    messages = [{"role": "user", "content": str(number)} for number in range(100)]

    answer = deployed.post("", {**deployed.body(messages=messages), "channels": channels})

    assert answer.status_code == 201, answer.text
    deployed.events(answer.json())
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {tuple(channels)}
    assert [item["content"][0]["text"] for item in deployed.asked[0]["input"]] == [str(n) for n in range(100)]


# -- the app key


@pytest.mark.parametrize("key", ["BFAPI_other", "BFAPI_", "", "nonsense", "BFAPI_ä", "BFAPI_x\n"])
def test_unknown_app_key(deployed: Deployment, key: str) -> None:
    """A key the gateway does not know is 401, whatever it looks like, and nothing is asked of the provider."""
    error = deployed.refused(401, {**deployed.body(), "apiKey": key})

    assert (error["name"], error["className"]) == ("NotAuthenticated", "not-authenticated")
    assert "apiKey" in error["errors"]
    assert deployed.asked == []


def test_missing_app_key(deployed: Deployment) -> None:
    """Without a key in body or header a start is 401."""
    error = deployed.refused(401, changed(deployed.body(), "apiKey", ...))

    assert error["errors"] == {"apiKey": "is required"}


def test_app_key_in_header(deployed: Deployment) -> None:
    """The app key may come as `X-Api-Key`."""
    deployed.provider.script("Hello")

    answer = deployed.post("", changed(deployed.body(), "apiKey", ...), headers={"X-Api-Key": APP_KEY})

    assert answer.status_code == 201
    assert deployed.events(answer.json())[-1]["type"] == "end"


def test_keys_of_any_length(deploy: Deploy) -> None:
    """App keys are `BFAPI_` and letters, digits, dashes, of any length."""
    key = "BFAPI_" + "a1-" * 60
    deployed = deploy(api_keys=f"BFAPI_a,{key}", messaging="http")
    deployed.gateway.keys = frozenset({"BFAPI_a", key})
    deployed.provider.script("one", "two")

    for each in ("BFAPI_a", key):
        run = deployed.post("", {**deployed.body(), "apiKey": each})
        assert run.status_code == 201
        assert deployed.events(run.json())[-1]["type"] == "end"


# -- fields that are refused

LONG = "x" * 201
REFUSED: list[tuple[str, Any, str]] = [
    ("channels", ..., "channels"),
    ("channels", [], "channels"),
    ("channels", [""], "channels.0"),
    ("channels", [LONG], "channels.0"),
    ("channels", ["c"] * 21, "channels"),
    ("channels", [1], "channels.0"),
    ("channels", {"a": 1}, "channels"),
    ("actionName", ..., "actionName"),
    ("actionName", "", "actionName"),
    ("actionName", "1a", "actionName"),
    ("actionName", "a b", "actionName"),
    ("actionName", "function", "actionName"),
    ("actionName", "a" * 129, "actionName"),
    ("actionName", "ok\n", "actionName"),
    ("actionName", 7, "actionName"),
    ("payload", ..., "payload"),
    ("payload", [], "payload"),
    ("payload.provider", "nobody", "payload.provider"),
    ("payload.provider", 7, "payload.provider"),
    ("payload.stream", "true", "payload.stream"),
    ("payload.stream", 1, "payload.stream"),
    ("payload.messages", ..., "payload.messages"),
    ("payload.messages", [], "payload.messages"),
    ("payload.messages", "Hi", "payload.messages"),
    ("payload.messages", [{"role": "user", "content": "x"}] * 101, "payload.messages"),
    ("payload.messages.0", "Hi", "payload.messages.0"),
    ("payload.messages.0.role", "tool", "payload.messages.0.role"),
    ("payload.messages.0.role", ..., "payload.messages.0.role"),
    ("payload.messages.0.content", 7, "payload.messages.0.content"),
    ("payload.messages.0.content", ..., "payload.messages.0.content"),
    ("payload.messages.0.content", [{"type": "audio"}], "payload.messages.0.content.0.type"),
    ("payload.messages.0.content", [{"type": "text"}], "payload.messages.0.content.0.text"),
    (
        "payload.messages.0.content",
        [{"type": "image_url", "image_url": {}}],
        "payload.messages.0.content.0.image_url.url",
    ),
    ("payload.thread_id", 7, "payload.thread_id"),
    ("payload.model", 7, "payload.model"),
    ("payload.instructions", 7, "payload.instructions"),
    ("payload.tools", {}, "payload.tools"),
    ("payload.tools", [{"type": "web_search"}], "payload.tools.0.type"),
    ("payload.tools", [{"type": "function"}], "payload.tools.0.function"),
    ("payload.tools", [{"type": "function", "function": {}}], "payload.tools.0.function.name"),
    ("payload.tools", [{"type": "function", "function": {"name": "a b"}}], "payload.tools.0.function.name"),
    ("payload.tools", [FLAT_TOOL, FLAT_TOOL], "payload.tools.1"),
    (
        "payload.tools",
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
        "payload.tools.0.function.parameters",
    ),
    ("payload.tool_choice", 7, "payload.tool_choice"),
    ("payload.tool_choice", "sometimes", "payload.tool_choice"),
    ("payload.temperature", "hot", "payload.temperature"),
    ("payload.temperature", 2.1, "payload.temperature"),
    ("payload.top_p", -0.1, "payload.top_p"),
    ("payload.response_format", {"type": "xml"}, "payload.response_format.type"),
    ("payload.metadata", {"a": 1}, "payload.metadata.a"),
    ("payload.metadata", {str(n): "" for n in range(17)}, "payload.metadata"),
    ("payload.max_completion_tokens", 0, "payload.max_completion_tokens"),
    ("payload.reasoning_effort", "extreme", "payload.reasoning_effort"),
    ("payload.parallel_tool_calls", "no", "payload.parallel_tool_calls"),
    ("payload.additional_messages", [{"role": "x", "content": "y"}], "payload.additional_messages.0.role"),
    ("providerArgs", [], "providerArgs"),
    ("providerArgs", {"store": False}, "providerArgs.store"),
    ("providerArgs", {"previous_response_id": "resp_1"}, "providerArgs.previous_response_id"),
    ("providerArgs", {"conversation": "conv_1"}, "providerArgs.conversation"),
    ("providerArgs", {"model": "other"}, "providerArgs.model"),
    ("providerArgs", {"text": {"format": {}}}, "providerArgs.text.format"),
    ("payload.providerArgs", {"input": []}, "payload.providerArgs.input"),
]


@pytest.mark.parametrize(("path", "value", "field"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(deployed_once: Deployment, path: str, value: Any, field: str) -> None:
    """A field that is missing or wrong is 400, and the error names it."""
    body = deployed_once.body()

    error = deployed_once.refused(400, changed(body, path, value))

    assert field in error["errors"]
    assert error["message"].startswith(next(iter(error["errors"])))
    assert error["name"] == "BadRequest"
    assert deployed_once.asked == []


@pytest.fixture(scope="module")
def deployed_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One deployment for all the tests that only ask for refusals."""
    with Deployment(folder=tmp_path_factory.mktemp("start"), model=None) as deployed:
        yield deployed


def test_unknown_provider_lists_known(deployed_once: Deployment) -> None:
    """A provider no engine answers to is refused with a list of those that do."""
    error = deployed_once.refused(400, deployed_once.body(provider="nobody", model="m"))

    assert "openai" in error["message"]


def test_model_is_required(deployed_once: Deployment) -> None:
    """Without a model, neither sent nor configured, a start is 400: there is no built-in default."""
    error = deployed_once.refused(400, deployed_once.body())

    assert list(error["errors"]) == ["payload.model"]


def test_provider_key_is_required(deployed_once: Deployment) -> None:
    """Without a provider key, neither sent nor configured, a start is 400."""
    error = deployed_once.refused(400, deployed_once.body(apiKey=None, model="m"))

    assert list(error["errors"]) == ["payload.apiKey"]


@pytest.mark.parametrize("name", ["a", "_a", "$a", "a.b-c_d$e", "handleAssistantResponse", "a" * 128])
def test_action_names(deployed: Deployment, name: str) -> None:
    """Action names of JavaScript's shape, with dots and dashes, are taken and called."""
    deployed.provider.script("Hello")

    run = deployed.post("", {**deployed.body(), "actionName": name})

    assert run.status_code == 201
    deployed.events(run.json())
    assert {action["name"] for action in deployed.gateway.actions()} == {name}


# -- bodies


def send(deployed: Deployment, data: bytes, **headers: str) -> Any:
    """POST raw bytes to the start."""
    return deployed.http.post(
        run_url(deployed), data=data, headers={"Content-Type": "application/json", **headers}, timeout=30
    )


def test_comments_are_not_json(deployed_once: Deployment) -> None:
    """Comments are 400 that points at line and column (the published example has one)."""
    answer = send(deployed_once, b'{\n  "apiKey": "x", // Optional\n  "channels": []\n}')

    assert answer.status_code == 400
    assert "line 2, column 18" in answer.json()["message"]
    assert "comments" in answer.json()["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff{}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
    ],
)
def test_bad_json(deployed_once: Deployment, data: bytes) -> None:
    """Whatever is no JSON object is 400 that names the body."""
    answer = send(deployed_once, data)

    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["body"]


def test_body_limit(deployed_once: Deployment) -> None:
    """A body may have 1 MiB; one byte more is 413."""
    body = json.dumps(deployed_once.body()).encode()
    limit = 1024 * 1024

    fits = send(deployed_once, body.ljust(limit))
    over = send(deployed_once, body.ljust(limit + 1))

    assert fits.status_code == 400  # no model: it was read
    assert over.status_code == 413
    assert over.json()["className"] == "payload-too-large"


def test_body_limit_without_length(deployed_once: Deployment) -> None:
    """A chunked body is measured too."""
    answer = deployed_once.http.post(
        run_url(deployed_once),
        data=(b" " * 65536 for _ in range(20)),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )

    assert answer.status_code == 413


def test_content_type(deployed_once: Deployment) -> None:
    """Another kind of body is 415."""
    answer = send(deployed_once, b"a=1", **{"Content-Type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 415
    assert answer.json()["name"] == "UnsupportedMediaType"


# -- what reaches the provider


def asked_with(deployed: Deployment, **payload: Any) -> dict[str, Any]:
    """Poll once and return what the provider was asked."""
    deployed.provider.script("Hello")
    deployed.poll("Hi", **payload)
    return deployed.asked[-1]


def test_stream_defaults_to_false(deployed: Deployment) -> None:
    """Without `stream` a start polls: neither channels nor an action name are needed."""
    deployed.provider.script("Hello")
    body = {"apiKey": APP_KEY, "payload": deployed.body()["payload"]}
    del body["payload"]["stream"]

    answer = deployed.post("", body)

    assert answer.status_code == 200
    assert answer.json()["status"] == "done"


def test_options(deployed: Deployment) -> None:
    """Generation parameters have their Assistants meanings."""
    asked = asked_with(
        deployed,
        model="gpt-other",
        instructions="Be brief.",
        additional_instructions="Be kind.",
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=100,
        reasoning_effort="low",
        parallel_tool_calls=False,
        tools=[WEATHER_TOOL, FLAT_TOOL],
        tool_choice={"type": "function", "function": {"name": "flat"}},
        metadata={"a": "b"},
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    )

    assert asked["model"] == "gpt-other"
    assert asked["instructions"] == "Be brief.\n\nBe kind."
    assert (asked["temperature"], asked["top_p"], asked["parallel_tool_calls"]) == (0.5, 0.9, False)
    assert asked["max_output_tokens"] == 100
    assert asked["reasoning"]["effort"] == "low"
    assert asked["tool_choice"] == {"type": "function", "name": "flat"}
    assert [(tool["type"], tool["name"], tool["strict"]) for tool in asked["tools"]] == [
        ("function", "getCurrentWeather", False),
        ("function", "flat", False),
    ]
    assert asked["tools"][0]["parameters"] == WEATHER_TOOL["function"]["parameters"]  # type: ignore[index]
    assert asked["metadata"]["a"] == "b"
    assert asked["text"]["format"]["type"] == "json_schema"
    assert asked["text"]["format"]["name"] == "n"


def test_large_integers(deployed: Deployment) -> None:
    """Numbers that need more than 64 bits, which JavaScript writes as integers, pass as numbers."""
    schema = {"type": "object", "properties": {"n": {"type": "number", "maximum": 10**20}}}

    asked = asked_with(deployed, tools=[{**FLAT_TOOL, "parameters": schema}])

    assert asked["tools"][0]["parameters"]["properties"]["n"]["maximum"] == 10**20


def test_tool_choice_alias(deployed: Deployment) -> None:
    """`toolChoice` is `tool_choice`."""
    asked = asked_with(deployed, tools=[FLAT_TOOL], toolChoice="required")

    assert asked["tool_choice"] == "required"


def test_provider_args(deployed: Deployment) -> None:
    """What is on the allow-list of `providerArgs` is merged into the provider's create call."""
    args = {
        "truncation": "auto",
        "text": {"verbosity": "low"},
        "service_tier": "flex",
        "max_tool_calls": 3,
        "safety_identifier": "user-1",
        "prompt_cache_key": "cache-1",
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
    }
    asked = asked_with(deployed, providerArgs=args)

    assert {name: asked[name] for name in args} == args


def test_provider_args_beside_the_payload(deployed: Deployment) -> None:
    """They may stand beside `payload` too, as the published field does; what is in it counts more."""
    deployed.provider.script("Hello")
    args = {"service_tier": "flex", "max_tool_calls": 3}
    body = deployed.body(stream=False, providerArgs={"max_tool_calls": 5})

    assert deployed.post("", {**body, "providerArgs": args}).status_code == 200

    assert (deployed.asked[0]["service_tier"], deployed.asked[0]["max_tool_calls"]) == ("flex", 5)


def test_messages(deployed: Deployment) -> None:
    """All roles and kinds of parts are taken and mapped; additional messages follow."""
    asked = asked_with(
        deployed,
        messages=[
            {"role": "system", "content": "s"},
            {"role": "developer", "content": "d"},
            {"role": "assistant", "content": "a"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "t"},
                    {"type": "input_text", "text": "i"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                    {"type": "image_file", "image_file": {"file_id": "file-1"}},
                    {"type": "input_image", "image_url": "https://example.org/b.png"},
                    {"type": "input_file", "file_id": "file-2"},
                ],
            },
        ],
        additional_messages=[{"role": "user", "content": "more"}],
    )

    said = asked["input"]
    assert [item["role"] for item in said] == ["system", "developer", "assistant", "user", "user"]
    assert [(part["type"], part["text"]) for part in said[2]["content"]] == [("output_text", "a")]
    assert said[3]["content"] == [
        {"type": "input_text", "text": "t"},
        {"type": "input_text", "text": "i"},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
        {"type": "input_image", "file_id": "file-1", "detail": "auto"},
        {"type": "input_image", "image_url": "https://example.org/b.png", "detail": "auto"},
        {"type": "input_file", "file_id": "file-2"},
    ]
    assert said[4]["content"] == [{"type": "input_text", "text": "more"}]


def test_built_in_tools(deployed: Deployment) -> None:
    """`file_search` and `code_interpreter` are taken in the Assistants' and in the Responses' form."""
    expected = [
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
    ]
    resources = {"file_search": {"vector_store_ids": ["vs_1"]}, "code_interpreter": {"file_ids": ["file-1"]}}

    assistants = asked_with(
        deployed, tools=[{"type": "file_search"}, {"type": "code_interpreter"}], tool_resources=resources
    )
    responses = asked_with(deployed, tools=expected)

    assert assistants["tools"] == expected
    assert responses["tools"] == expected


def test_provider_is_asked_as_promised(deployed: Deployment) -> None:
    """The caller's provider key and request id travel; provider ids are never part of an answer."""
    deployed.provider.script("Hello")

    answer = deployed.post("", deployed.body(stream=False), headers={"X-Request-ID": "trace-1"})

    request = next(request for request in deployed.provider.requests if request.operation == "create")
    assert request.key == PROVIDER_KEY
    assert request.headers["x-client-request-id"] == "trace-1"
    assert (request.body["store"], request.body["background"], request.body["stream"]) == (True, True, True)
    assert "resp_" not in answer.text
    assert "conv_" not in answer.text


def test_the_trace_of_the_caller_travels(deploy: Deploy) -> None:
    """Well-formed W3C trace headers reach hooks and provider; `before_run` may put those of its own span in place."""
    own = f"00-{'1' * 32}-{'3' * 16}-01"
    seen: list[tuple[str | None, str | None]] = []

    @hookimpl
    def before_run(run: RunDraft) -> None:
        seen.append((run.traceparent, run.tracestate))
        if run.traceparent:
            run.traceparent, run.tracestate = own, None

    @hookimpl
    def on_end(run: Run) -> None:
        seen.append((run.traceparent, run.tracestate))

    deployed = deploy(plugins=[SimpleNamespace(name="tracing", before_run=before_run, on_end=on_end)])
    theirs = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "vendor=x"}
    for headers in (theirs, {"traceparent": "00-nonsense", "tracestate": "vendor=x"}):
        deployed.provider.script("Hello")
        deployed.post("", deployed.body(stream=False), headers=headers).raise_for_status()
        deployed.gateway.wait_for(lambda: len(seen) % 2 == 0)

    assert seen == [tuple(theirs.values()), (own, None), (None, None), (None, None)]
    created = [request.headers for request in deployed.provider.requests if request.operation == "create"]
    assert [(asked.get("traceparent"), asked.get("tracestate")) for asked in created] == [(own, None), (None, None)]


# -- assistants, and what the operator configured


def operator(**app: Any) -> dict[str, Any]:
    """Return settings with one configured app."""
    return {"apps": {"portal": AppSettings(api_keys=[SecretStr(APP_KEY)], **app)}, "messaging": "http"}


def test_assistant(deploy: Deploy) -> None:
    """An assistant is a named set of model, instructions and tools; the caller's own win; an unknown id is 404."""
    helper = AssistantSettings(model="gpt-helper", instructions="Help.", tools=[WEATHER_TOOL])
    deployed = deploy(**operator(assistants={"asst_1": helper}))

    asked = asked_with(deployed, assistant_id="asst_1", additional_instructions="Now.")
    assert (asked["model"], asked["instructions"]) == ("gpt-helper", "Help.\n\nNow.")
    assert [tool["name"] for tool in asked["tools"]] == ["getCurrentWeather"]

    asked = asked_with(deployed, assistant_id="asst_1", model="gpt-mine", instructions="Mine.", tools=[])
    assert (asked["model"], asked["instructions"]) == ("gpt-mine", "Mine.")
    assert not asked.get("tools")

    error = deployed.refused(404, deployed.body(assistant_id="asst_2"))
    assert list(error["errors"]) == ["payload.assistant_id"]


def test_operators_provider_key(deploy: Deploy) -> None:
    """Where the operator configured a provider key, the caller needs none."""
    deployed = deploy(**operator(openai_api_key="sk-operator-000000"))

    asked_with(deployed, apiKey=None)
    asked_with(deployed)

    keys = [request.key for request in deployed.provider.requests if request.operation == "create"]
    assert keys == ["sk-operator-000000", PROVIDER_KEY]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "input_file", "file_id": "X"}]}]},
            "payload.messages.0.content.0.file_id",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_file", "image_file": {"file_id": "X"}}]}]},
            "payload.messages.0.content.0.image_file.file_id",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "attachments": [{"file_id": "X"}]}]},
            "payload.messages.0.attachments.0.file_id",
        ),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["X"]}]}, "payload.tools.0.vector_store_ids.0"),
        ({"tools": [{"type": "code_interpreter", "container": "X"}]}, "payload.tools.0.container"),
        (
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["X"]}}]},
            "payload.tools.0.container.file_ids.0",
        ),
        (
            {"tool_resources": {"file_search": {"vector_store_ids": ["X"]}}, "tools": [{"type": "file_search"}]},
            "payload.tool_resources.file_search.vector_store_ids.0",
        ),
        (
            {"tool_resources": {"code_interpreter": {"file_ids": ["X"]}}},
            "payload.tool_resources.code_interpreter.file_ids.0",
        ),
    ],
)
def test_operators_files(deploy: Deploy, payload: dict[str, Any], field: str) -> None:
    """With the operator's key only files, stores and containers listed for the app may be named; else 403."""
    listed = {"allowed_files": ["ok"], "allowed_vector_stores": ["ok"], "allowed_containers": ["ok"]}
    deployed = deploy(**operator(openai_api_key="sk-operator-000000", **listed))

    error = deployed.refused(403, deployed.body(apiKey=None, stream=False, **payload))
    assert list(error["errors"]) == [field]
    assert deployed.asked == []

    allowed = json.loads(json.dumps(payload).replace('"X"', '"ok"'))
    asked_with(deployed, apiKey=None, **allowed)
    asked_with(deployed, **payload)  # the caller's own key reaches its own things only


# -- other keys


def test_ignored_keys_are_named(deployed: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    """Keys without a meaning do no harm, and are named in the answer and in the log."""
    deployed.provider.script("Hello", "Hello")
    body = {**deployed.body(truncation_strategy={"type": "auto"}, payloadExtra=1), "extra": 2}

    streamed = deployed.post("", body).json()
    polled = deployed.post("", changed(body, "payload.stream", False)).json()

    for answer in (streamed, polled):
        named = [warning.split()[0] for warning in answer["warnings"]]
        assert sorted(named) == ["extra", "payload.payloadExtra", "payload.truncation_strategy"]
    logged = [record.getMessage() for record in caplog.records if "payload.truncation_strategy" in record.getMessage()]
    assert len(logged) == 2
    deployed.events(streamed)


def test_no_warnings_without_reason(deployed: Deployment) -> None:
    """An answer has no `warnings` when nothing was ignored."""
    deployed.provider.script("Hello")

    assert "warnings" not in deployed.poll()
