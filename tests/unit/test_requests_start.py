"""The body of a start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.bodies import StartRequest, parse_start, valid_action_name
from bf_plugin.errors import RequestError

PAYLOAD = {"stream": True, "model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BODY = {"apiKey": "BFAPI_1", "channels": ["c"], "actionName": "handle", "payload": PAYLOAD}


def start(*, top: Any = None, **payload: Any) -> StartRequest:
    """Parse the smallest streaming start with some of its fields replaced."""
    return parse_start({**BODY, **(top or {}), "payload": {**PAYLOAD, **payload}})


def refused(act: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        act()
    assert caught.value.code == 400
    return caught.value


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in BODY.items() if name != key}


def test_smallest_start() -> None:
    """What was not given is absent, and nothing is warned about."""
    request = parse_start({"payload": {"messages": [{"role": "user", "content": "Hi"}]}})
    assert request == StartRequest(
        api_key=None,
        channels=(),
        action_name=None,
        provider="openai",
        provider_key=None,
        stream=False,
        messages=({"type": "message", "role": "user", "content": [{"type": "text", "text": "Hi"}]},),
        thread_id=None,
        model=None,
        instructions=None,
        additional_instructions=None,
        assistant_id=None,
        tools=None,
        search_stores=(),
        code_files=(),
        options={},
        metadata={},
        file_ids={},
        vector_store_ids={},
        container_ids={},
        warnings=(),
    )


def test_published_example() -> None:
    """The example of the published page, without its comment, is taken whole."""
    request = parse_start(
        {
            "apiKey": "BFAPI_xxxxxxxx-xxxxxx-xxxxxx",
            "channels": ["user-conversation-channel-123"],
            "actionName": "handleAssistantResponse",
            "payload": {
                "provider": "openai",
                "apiKey": "sk-xxxxxxx-xxxxxxxx-xxxxxxx",
                "stream": True,
                "model": "gpt-4-turbo",
                "instructions": "You are a helpful assistant that provides concise answers.",
                "thread_id": "thread_abc123",
                "messages": [{"role": "user", "content": "What's the weather like in San Francisco?"}],
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "getCurrentWeather",
                            "description": "Get the current weather in a given location",
                            "parameters": {
                                "type": "object",
                                "properties": {"location": {"type": "string", "description": "e.g. San Francisco"}},
                                "required": ["location"],
                            },
                        },
                    }
                ],
            },
        }
    )
    assert (request.api_key, request.provider_key) == ("BFAPI_xxxxxxxx-xxxxxx-xxxxxx", "sk-xxxxxxx-xxxxxxxx-xxxxxxx")
    assert (request.stream, request.thread_id, request.model) == (True, "thread_abc123", "gpt-4-turbo")
    assert request.tools is not None
    assert [tool["type"] for tool in request.tools] == ["function"]
    assert request.warnings == ()


@pytest.mark.parametrize(
    ("body", "field", "expected"),
    [
        ({}, "payload", "is required"),
        ({**BODY, "payload": []}, "payload", "must be an object"),
        ({**BODY, "apiKey": 5}, "apiKey", "must be a string"),
        (without("channels"), "channels", "is required"),
        ({**BODY, "channels": None}, "channels", "must be an array"),
        ({**BODY, "channels": []}, "channels", "must not be empty"),
        ({**BODY, "channels": {}}, "channels", "must be an array"),
        ({**BODY, "channels": "c" * 201}, "channels.0", "must have at most 200 characters"),
        ({**BODY, "channels": ["c", ""]}, "channels.1", "must not be empty"),
        ({**BODY, "channels": ["c", 1]}, "channels.1", "must be a string"),
        ({**BODY, "channels": [str(i) for i in range(21)]}, "channels", "must have at most 20 entries"),
        (without("actionName"), "actionName", "is required"),
        ({**BODY, "actionName": ""}, "actionName", "must match"),
        ({**BODY, "actionName": "a b"}, "actionName", "must match"),
        ({**BODY, "actionName": "1a"}, "actionName", "must match"),
        ({**BODY, "actionName": "a\n"}, "actionName", "must match"),
        ({**BODY, "actionName": "a" * 129}, "actionName", "must match"),
        ({**BODY, "actionName": "function"}, "actionName", "must not be function"),
    ],
)
def test_refused_envelopes(body: dict[str, Any], field: str, expected: str) -> None:
    """A bad field around the payload is named."""
    error = refused(lambda: parse_start(body))
    assert error.errors[field].startswith(expected)
    assert error.message.startswith(f"{field} {expected}")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("provider", "", "must not be empty"),
        ("provider", 1, "must be a string"),
        ("apiKey", 1, "must be a string"),
        ("apiKey", "sk-1\r\nX-Other: 1", "must match"),
        ("stream", "true", "must be a boolean"),
        ("stream", 1, "must be a boolean"),
        ("stream", 0, "must be a boolean"),
        ("thread_id", 1, "must be a string"),
        ("threadId", [], "must be a string"),
        ("assistantThreadId", {}, "must be a string"),
        ("model", "", "must not be empty"),
        ("model", 4, "must be a string"),
        ("instructions", [], "must be a string"),
        ("additional_instructions", 1, "must be a string"),
        ("assistant_id", 1, "must be a string"),
        ("tool_choice", "any", "must be 'none', 'auto' or 'required'"),
        ("toolChoice", 1, "must be a string or an object"),
        ("temperature", 2.1, "must be at most 2"),
        ("temperature", -1, "must be at least 0"),
        ("temperature", "1", "must be a number"),
        ("temperature", True, "must be a number"),
        ("top_p", 1.1, "must be at most 1"),
        ("top_p", -0.1, "must be at least 0"),
        ("response_format", "json", "must be 'auto'"),
        ("response_format", 1, "must be an object"),
        ("max_completion_tokens", 0, "must be at least 1"),
        ("max_completion_tokens", 1.5, "must be an integer"),
        ("max_completion_tokens", True, "must be an integer"),
        ("max_completion_tokens", 10**30, "must be at most 2147483648"),
        ("reasoning_effort", "huge", "must be 'none', 'minimal', 'low', 'medium', 'high' or 'xhigh'"),
        ("parallel_tool_calls", 1, "must be a boolean"),
        ("metadata", [], "must be an object"),
        ("metadata", {str(i): "" for i in range(17)}, "must have at most 16 entries"),
        ("metadata", {"k" * 65: "v"}, "has a bad key: it must have at most 64 characters"),
        ("tool_resources", [], "must be an object"),
        ("providerArgs", [], "must be an object"),
        ("additional_messages", {}, "must be an array"),
    ],
)
def test_refused_payload_fields(field: str, value: Any, expected: str) -> None:
    """A bad field of the payload is named, and its value is not repeated."""
    error = refused(lambda: start(**{field: value}))
    assert error.errors[f"payload.{field}"].startswith(expected)


@pytest.mark.parametrize(
    ("payload", "field", "expected"),
    [
        ({"metadata": {"k": 1}}, "payload.metadata.k", "must be a string"),
        ({"metadata": {"k": "v" * 513}}, "payload.metadata.k", "must have at most 512 characters"),
        ({"tool_choice": {"type": "web_search"}}, "payload.tool_choice.type", "must be 'file_search'"),
        ({"tool_choice": {"type": "function"}}, "payload.tool_choice.function", "is required"),
        ({"tool_choice": {"type": "function", "name": "a b"}}, "payload.tool_choice.name", "must match"),
        ({"response_format": {}}, "payload.response_format.type", "is required"),
        ({"response_format": {"type": "xml"}}, "payload.response_format.type", "must be text, json_object or"),
        ({"response_format": {"type": "json_schema"}}, "payload.response_format.json_schema", "is required"),
        ({"tool_resources": {"file_search": []}}, "payload.tool_resources.file_search", "must be an object"),
        ({"providerArgs": {"store": False}}, "payload.providerArgs.store", "is not allowed"),
        ({"providerArgs": {"text": {"format": {}}}}, "payload.providerArgs.text.format", "is not allowed"),
        ({"providerArgs": {"text": {"verbosity": "x"}}}, "payload.providerArgs.text.verbosity", "must be 'low'"),
    ],
)
def test_refused_inner_fields(payload: dict[str, Any], field: str, expected: str) -> None:
    """A bad field deep in the payload is named by its dotted path."""
    assert refused(lambda: start(**payload)).errors[field].startswith(expected)


def test_names_every_bad_field_at_once() -> None:
    """One answer is enough to correct a request; the message is about the first."""
    error = refused(lambda: start(top={"actionName": "a b"}, messages=[], temperature=3))
    assert list(error.errors) == ["actionName", "payload.messages", "payload.temperature"]
    assert error.message == f"actionName {error.errors['actionName']}"


def test_never_repeats_values() -> None:
    """Values may be secrets: no error repeats one, nor does its chain."""
    error = refused(lambda: start(apiKey="sk-secret key", temperature="sk-secret", metadata={"a": ["sk-secret"]}))
    assert "secret" not in repr((error.message, error.errors, error.__cause__, error.__context__))


def test_polling_needs_no_channel() -> None:
    """Channels and action name are optional when polling, and checked all the same."""
    body = {"payload": {**PAYLOAD, "stream": False}}
    assert parse_start(body).stream is False
    assert "channels" in refused(lambda: parse_start({**body, "channels": []})).errors
    assert "actionName" in refused(lambda: parse_start({**body, "actionName": "function"})).errors


def test_channels_are_a_list_without_repetition() -> None:
    """A single string is a list of one; each channel gets an event once."""
    assert start(top={"channels": "c"}).channels == ("c",)
    assert start(top={"channels": ["b", "a", "b"]}).channels == ("b", "a")


@pytest.mark.parametrize("name", ["a", "_", "$x.y-z", "a" * 128, "functions", "my.function"])
def test_action_names(name: str) -> None:
    """Names up to 128 characters, with dots and dashes, are taken."""
    assert start(top={"actionName": name}).action_name == name
    assert valid_action_name({"actionName": name}) == name


@pytest.mark.parametrize("name", [None, 1, "", "a b", "a\n", "function", "a" * 129])
def test_no_bad_action_name_is_echoed(name: object) -> None:
    """The name an error repeats is a valid one."""
    assert valid_action_name({"actionName": name}) is None


def test_null_is_absent() -> None:
    """Callers that send null for what they have not are served."""
    names = ("provider", "apiKey", "thread_id", "threadId", "model", "instructions", "tools", "metadata", "temperature")
    assert start(**dict.fromkeys(names)) == start(model=None)


@pytest.mark.parametrize("alias", ["thread_id", "threadId", "assistantThreadId"])
def test_thread_id_aliases(alias: str) -> None:
    """A thread is continued by any of its names; an empty string, as pages send at first, means a new one."""
    assert start(**{alias: "thread_1"}).thread_id == "thread_1"
    assert start(**{alias: ""}).thread_id is None
    assert start(**{"thread_id": "", alias: "thread_1"}).thread_id == "thread_1"


def test_options_keep_the_assistants_form() -> None:
    """Generation parameters arrive under one name and in one form each."""
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    request = start(
        temperature=1,
        top_p=0.5,
        max_completion_tokens=7.0,
        reasoning_effort="low",
        parallel_tool_calls=False,
        toolChoice={"type": "function", "name": "f"},
        response_format={"type": "json_schema", "json_schema": {**schema, "description": None}},
        providerArgs={"text": {"verbosity": "low"}, "truncation": None, "top_logprobs": 0},
        top={"providerArgs": {"truncation": "auto", "top_logprobs": 5}},
    )
    assert request.options == {
        "temperature": 1,
        "top_p": 0.5,
        "max_completion_tokens": 7,
        "reasoning_effort": "low",
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": schema},
        "provider_args": {"text": {"verbosity": "low"}, "truncation": "auto", "top_logprobs": 0},
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "file_search"}, {"type": "file_search"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
    ],
)
@pytest.mark.parametrize("name", ["tool_choice", "toolChoice"])
def test_tool_choices(name: str, choice: Any, expected: Any) -> None:
    """Every form of a tool choice is taken under both names."""
    assert start(**{name: choice}).options == {"tool_choice": expected}


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_plain_response_formats(kind: str) -> None:
    """Formats without a schema are passed on; `auto` asks for nothing."""
    assert start(response_format={"type": kind}).options == {"response_format": {"type": kind}}
    assert start(response_format="auto").options == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("truncation", "disabled"),
        ("reasoning", {"effort": "low", "summary": "auto"}),
        ("service_tier", "flex"),
        ("include", ["reasoning.encrypted_content"]),
        ("max_tool_calls", 3),
        ("safety_identifier", "user-1"),
        ("prompt_cache_key", "k"),
        ("top_logprobs", 20),
    ],
)
def test_allowed_provider_args(name: str, value: Any) -> None:
    """Each allowed provider argument is passed on as it is, from both places."""
    assert start(providerArgs={name: value}).options == {"provider_args": {name: value}}
    assert start(top={"providerArgs": {name: value}}).options == {"provider_args": {name: value}}


def test_metadata_limits() -> None:
    """Sixteen pairs of the largest size are taken."""
    pairs = {f"{index:064}": "v" * 512 for index in range(16)}
    assert start(metadata=pairs).metadata == pairs


def test_ignored_keys_are_named() -> None:
    """No key is dropped in silence, wherever it stands; known ones say what to use."""
    request = start(
        top={"extra": 1},
        truncation_strategy={"type": "auto"},
        max_prompt_tokens=5,
        messages=[{"role": "user", "content": "Hi", "id": "m"}],
        tools=[{"type": "function", "function": {"name": "f", "x": 1}, "y": 2}],
    )
    assert request.warnings == (
        "extra is ignored: it is not known",
        "payload.truncation_strategy is ignored: providerArgs.truncation is what there is today",
        "payload.max_prompt_tokens is ignored: there is no equivalent today",
        "payload.messages.0.id is ignored: it is not known",
        "payload.tools.0.y is ignored: it is not known",
        "payload.tools.0.function.x is ignored: it is not known",
    )


def test_warnings_are_bounded() -> None:
    """Many, long or unprintable keys make no long answer."""
    request = start(top={f"{index}\n{'x' * 1000}": None for index in range(50)})
    assert len(request.warnings) == 21
    assert request.warnings[-1] == "30 more keys are ignored"
    assert all(len(warning) < 130 and warning.isprintable() for warning in request.warnings)


def test_repr_holds_no_secret() -> None:
    """A request in a log or a traceback gives nothing away."""
    request = start(apiKey="sk-secret", thread_id="thread_secret", instructions="secret", metadata={"a": "secret"})
    assert "secret" not in repr(request)
    assert "BFAPI_1" not in repr(request)


NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True).filter(lambda name: not name.startswith("ui_"))
ID = st.text(min_size=1, max_size=40)
PARAMETERS = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(st.text(), st.sampled_from([{}, {"type": "string"}]))}
)
FUNCTION = st.fixed_dictionaries(
    {"name": NAME}, optional={"description": st.text(), "parameters": PARAMETERS, "strict": st.booleans()}
)
TOOL = (
    FUNCTION.map(lambda function: {"type": "function", **function})
    | FUNCTION.map(lambda function: {"type": "function", "function": function})
    | st.fixed_dictionaries({"type": st.just("file_search")}, optional={"vector_store_ids": st.lists(ID)})
    | st.fixed_dictionaries(
        {"type": st.just("code_interpreter")},
        optional={
            "container": ID | st.fixed_dictionaries({"type": st.just("auto")}, optional={"file_ids": st.lists(ID)})
        },
    )
)


def _function_name(tool: dict[str, Any]) -> object:
    return tool.get("function", tool).get("name", id(tool))


PART = (
    st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text"]), "text": st.text()})
    | st.fixed_dictionaries({"type": st.just("image_file"), "image_file": st.fixed_dictionaries({"file_id": ID})})
    | st.just({"type": "image_url", "image_url": {"url": "https://example.org/i.png", "detail": "low"}})
    | st.fixed_dictionaries({"type": st.just("input_image"), "file_id": ID})
    | st.fixed_dictionaries({"type": st.just("input_file"), "file_data": ID}, optional={"filename": st.text()})
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer"]),
        "content": st.text(min_size=1) | st.lists(PART, min_size=1, max_size=3),
    },
    optional={"attachments": st.lists(st.fixed_dictionaries({"file_id": ID}), max_size=2)},
)
VALID = st.fixed_dictionaries(
    {
        "channels": ID | st.lists(ID, min_size=1, max_size=20),
        "actionName": st.from_regex(r"[A-Za-z_$][A-Za-z0-9_$.-]{0,127}", fullmatch=True).filter("function".__ne__),
        "payload": st.fixed_dictionaries(
            {"messages": st.lists(MESSAGE, min_size=1, max_size=3)},
            optional={
                "stream": st.booleans(),
                "thread_id": st.text(),
                "tools": st.lists(TOOL, max_size=3, unique_by=_function_name),
                "temperature": st.floats(0, 2) | st.integers(0, 2),
                "metadata": st.dictionaries(st.text(max_size=64), st.text(max_size=512), max_size=16),
                "max_completion_tokens": st.integers(1, 2**31),
            },
        ),
    }
)


@settings(max_examples=100, deadline=None)
@given(VALID)
def test_valid_starts_always_parse(body: dict[str, Any]) -> None:
    """What keeps the rules is taken, without a warning and without touching the body."""
    before = copy.deepcopy(body)
    request = parse_start(body)
    assert request.warnings == ()
    assert len(request.messages) == len(body["payload"]["messages"])
    assert request.stream is body["payload"].get("stream", False)
    assert body == before


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["function", "auto", "text", "input_image", "file_search", "ui_x", "object", "https://x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "function", "name", "parameters", "properties", "content", "role", "$ref", "pattern", "x_calc"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
KEYS = ["messages", "tools", "stream", "tool_choice", "response_format", "metadata", "providerArgs", "tool_resources"]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["apiKey", "channels", "actionName", "payload"]), VALUES)
    | st.fixed_dictionaries({"payload": st.dictionaries(st.sampled_from(KEYS), VALUES)})
    | VALUES.map(lambda value: {"payload": {"messages": [{"role": "user", "content": [value]}]}})
    | VALUES.map(lambda value: {**BODY, "payload": {**PAYLOAD, "tools": [value]}})
    | VALUES.map(
        lambda value: {
            **BODY,
            "payload": {**PAYLOAD, "tools": [{"type": "function", "name": "ui_f", "parameters": value}]},
        }
    )
)
def test_nothing_but_request_errors(body: dict[str, Any]) -> None:
    """Any JSON gives a request or a 400 that names fields."""
    outcome: object
    try:
        outcome = parse_start(body)
    except RequestError as error:
        outcome = (error.code, bool(error.errors))
    assert isinstance(outcome, StartRequest) or outcome == (400, True)
