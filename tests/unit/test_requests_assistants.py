"""A start and its app."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.bodies import StartRequest, check_operator_resources, merge_assistant, parse_start
from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import App
from bf_plugin.settings import AssistantSettings

UI_TOOL = {"type": "function", "name": "ui_show"}
HELPER = AssistantSettings(
    model="assistant-model",
    instructions="Help.",
    tools=[{"type": "function", "function": {"name": "look"}}, {"type": "file_search", "vector_store_ids": ["v0"]}],
)


def app(**fields: Any) -> App:
    assistants = {"helper": HELPER, "page": AssistantSettings(tools=[UI_TOOL])}
    return App(**{"id": "portal", "api_key": "BFAPI_1", "assistants": assistants, **fields})


def start(**payload: Any) -> StartRequest:
    return parse_start({"payload": {"messages": [{"role": "user", "content": "Hi"}], **payload}})


def test_the_caller_comes_first_then_the_assistant_then_the_app() -> None:
    """Model and instructions are taken from whoever is nearest to the caller."""
    portal = app(model="app-model", instructions="Be brief.")
    cases: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({}, ("app-model", "Be brief.")),
        ({"assistant_id": "helper"}, ("assistant-model", "Help.")),
        ({"assistant_id": "page"}, ("app-model", "Be brief.")),
        ({"assistant_id": "helper", "model": "m", "instructions": "Sing."}, ("m", "Sing.")),
    ]
    for payload, expected in cases:
        stream = {"channels": "c", "actionName": "a"}
        body = {**stream, "payload": {"stream": True, "messages": [{"role": "user", "content": "a"}], **payload}}
        merged = merge_assistant(parse_start(body), portal)
        assert (merged.model, merged.instructions) == expected


def test_no_model_anywhere_is_left_to_hooks() -> None:
    """A model may still come from a hook: None is passed on."""
    assert merge_assistant(start(), app()).model is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"additional_instructions": "In rhyme."}, "Be brief.\n\nIn rhyme."),
        ({"instructions": "", "additional_instructions": "In rhyme."}, "In rhyme."),
        ({"instructions": ""}, None),
        ({"assistant_id": "helper", "additional_instructions": "In rhyme."}, "Help.\n\nIn rhyme."),
    ],
)
def test_instructions(payload: dict[str, Any], expected: str | None) -> None:
    """Additional instructions follow the others; empty ones replace the defaults by nothing."""
    assert merge_assistant(start(**payload), app(instructions="Be brief.")).instructions == expected


def test_tools_of_the_caller_replace_the_assistants() -> None:
    """Only a caller that sends no tools gets the assistant's; an empty list means none."""
    portal = app()
    merged = merge_assistant(start(assistant_id="helper"), portal)
    assert [tool["type"] for tool in merged.tools or ()] == ["function", "file_search"]
    assert merge_assistant(start(assistant_id="helper", tools=[]), portal).tools == ()
    assert merge_assistant(start(), portal).tools == ()


def test_unknown_assistants() -> None:
    """An assistant the app has not is 404, and its name is not repeated."""
    with pytest.raises(RequestError) as caught:
        merge_assistant(start(assistant_id="asst_secret"), app())
    assert caught.value.code == 404
    assert caught.value.errors == {"payload.assistant_id": "is not known"}
    assert "asst_secret" not in caught.value.message


def test_polling_refuses_an_assistant_with_ui_tools() -> None:
    """An assistant that needs a page cannot be polled, unless the caller brings its own tools."""
    with pytest.raises(RequestError) as caught:
        merge_assistant(start(assistant_id="page"), app())
    assert (caught.value.code, list(caught.value.errors)) == (400, ["payload.assistant_id"])
    assert merge_assistant(start(assistant_id="page", tools=[]), app()).tools == ()


def test_resources_go_to_their_tools() -> None:
    """Stores and files reach the tools they are for, the assistant's too, each once."""
    resources = {"file_search": {"vector_store_ids": ["v1", "v0"]}, "code_interpreter": {"file_ids": ["f1"]}}
    merged = merge_assistant(start(assistant_id="helper", tool_resources=resources), app())
    assert (merged.tools or ())[1] == {"type": "file_search", "vector_store_ids": ["v0", "v1"]}
    assert merged.warnings == ("the resources for code_interpreter are ignored: the run has no such tool",)
    own = start(
        tools=[{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f0"]}}],
        tool_resources={"code_interpreter": {"file_ids": ["f1", "f0"]}},
    )
    assert merge_assistant(own, app()).tools == ({"type": "code_interpreter", "file_ids": ["f0", "f1"]},)


def test_a_search_without_stores_is_left_out() -> None:
    """Providers refuse a file search without a store: it goes, with a warning."""
    merged = merge_assistant(start(tools=[{"type": "file_search"}]), app())
    assert merged.tools == ()
    assert merged.warnings == ("the tool file_search is ignored: it has no vector_store_ids",)


@pytest.mark.parametrize(
    ("payload", "allowed", "field"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            {"allowed_files": frozenset("f")},
            "payload.messages.0.content.0.file_id",
        ),
        (
            {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]},
            {"allowed_vector_stores": frozenset("v")},
            "payload.tools.0.vector_store_ids.0",
        ),
        (
            {"tools": [{"type": "code_interpreter", "container": "c"}]},
            {"allowed_containers": frozenset("c")},
            "payload.tools.0.container",
        ),
    ],
)
def test_operator_key_reaches_listed_storage_only(payload: dict[str, Any], allowed: dict[str, Any], field: str) -> None:
    """With the operator's key only what the app's settings list may be named; a caller's own key is its own affair."""
    with pytest.raises(RequestError) as caught:
        check_operator_resources(start(**payload), app())
    assert caught.value.code == 403
    assert caught.value.errors == {field: "is not allowed for this app"}
    check_operator_resources(start(**payload), app(**allowed))
    check_operator_resources(start(**payload, apiKey="sk-1"), app())


def test_the_operators_own_tools_are_not_checked() -> None:
    """What an assistant's settings name needs no second permission."""
    check_operator_resources(start(assistant_id="helper"), app())
