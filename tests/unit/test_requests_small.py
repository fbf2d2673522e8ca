"""The bodies of stop and of a page's answer to a tool."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.bodies import StopRequest, parse_json, parse_stop, parse_tool_answer
from bf_plugin.errors import RequestError


def test_stop() -> None:
    """Both ids are taken as they are; a key is optional, other keys do not matter."""
    ids = {"threadId": "thread_1", "runId": ""}
    assert parse_stop(ids) == StopRequest(thread_id="thread_1", run_id="")
    assert parse_stop({**ids, "apiKey": "", "x": 1}) == StopRequest(thread_id="thread_1", run_id="")
    assert parse_stop({**ids, "apiKey": "BFAPI_1"}).api_key == "BFAPI_1"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"threadId": "is required", "runId": "is required"}),
        ({"threadId": "t"}, {"runId": "is required"}),
        ({"runId": "r"}, {"threadId": "is required"}),
        ({"threadId": 1, "runId": None}, {"threadId": "must be a string", "runId": "must be a string"}),
        ({"threadId": "t", "runId": "r", "apiKey": 1}, {"apiKey": "must be a string"}),
    ],
)
def test_refused_stops(body: dict[str, Any], errors: dict[str, str]) -> None:
    """The missing or bad field is named."""
    with pytest.raises(RequestError) as caught:
        parse_stop(body)
    assert (caught.value.code, caught.value.errors) == (400, errors)


def test_stop_repr_holds_no_secret() -> None:
    """A stop in a log gives neither thread nor key away."""
    request = parse_stop({"threadId": "thread_secret", "runId": "run_1", "apiKey": "BFAPI_secret"})
    assert "secret" not in repr(request)


def test_tool_answer_is_all_but_the_id() -> None:
    """Whatever the page sent becomes the tool's output."""
    answer = parse_tool_answer({"toolCallId": "tool_1", "success": True, "data": {"ü": [1]}, "more": None})
    assert answer.tool_call_id == "tool_1"
    assert answer.output == '{"success": true, "data": {"ü": [1]}, "more": null}'
    assert "tool_1" not in repr(answer)


@pytest.mark.parametrize(
    ("body", "problem"),
    [({}, "is required"), ({"toolCallId": 1}, "must be a string"), ({"toolCallId": ""}, "must not be empty")],
)
def test_refused_tool_answers(body: dict[str, Any], problem: str) -> None:
    """Only the id is checked."""
    with pytest.raises(RequestError) as caught:
        parse_tool_answer(body)
    assert (caught.value.code, caught.value.errors) == (400, {"toolCallId": problem})


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_tool_output_can_be_sent(more: dict[str, object]) -> None:
    """The output is JSON of what came, in text that UTF-8 can hold."""
    body = parse_json(json.dumps({**more, "toolCallId": "\ud83dtool"}).encode())
    output = parse_tool_answer(body).output
    more.pop("toolCallId", None)
    assert json.loads(output.encode("utf-8")) == more
