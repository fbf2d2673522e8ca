"""Starting a run: what reaches the provider, what the operator configures, and what is ignored."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.settings import AppSettings, AssistantSettings
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.values import Run, RunDraft
from starts import FLAT_TOOL, WEATHER_TOOL, Deploy, changed


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
