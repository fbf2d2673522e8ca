"""Each thing a caller may send becomes what the Responses API takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bf_plugin.engines.openai.mapping import body_of, input_of, size_of, tool_of
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import Item, Tool, text_message


async def no_history() -> Sequence[Item]:
    return ()


def step(**changes: Any) -> StepRequest:
    values: dict[str, Any] = {
        "run_id": "run_1",
        "number": 1,
        "model": "gpt-6-astra",
        "instructions": None,
        "tools": (),
        "options": {},
        "metadata": {},
        "new": (),
        "state": None,
        "history": no_history,
    }
    return StepRequest(**{**values, **changes})


def body(**options: Any) -> dict[str, Any]:
    mapped = body_of(step(options=options))
    del mapped["model"]
    return mapped


def message(*parts: Any, role: str = "user") -> Any:
    return {"type": "message", "role": role, "content": list(parts)}


def parts(*content: Any, role: str = "user") -> Any:
    [mapped] = input_of([message(*content, role=role)])
    return mapped["content"]


def test_a_bare_step() -> None:
    """Nothing is sent that nobody asked for."""
    assert body_of(step()) == {"model": "gpt-6-astra"}


def test_instructions_tools_and_metadata() -> None:
    """They count for one response, so each step sends them."""
    mapped = body_of(step(instructions="Be brief.", tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}]))

    assert mapped["instructions"] == "Be brief."
    assert mapped["tools"] == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    assert body_of(step(metadata={"a": "b"}))["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (
            {"type": "function", "name": "f", "parameters": {}},
            {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False},
        ),
        (
            {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
            {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
        ),
        (
            {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 3, "filters": {"a": 1}},
            {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 3, "filters": {"a": 1}},
        ),
        (
            {"type": "code_interpreter", "file_ids": ["file_1"]},
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file_1"]}},
        ),
        ({"type": "code_interpreter", "file_ids": []}, {"type": "code_interpreter", "container": {"type": "auto"}}),
        (
            {"type": "code_interpreter", "file_ids": [], "container": "cntr_1"},
            {"type": "code_interpreter", "container": "cntr_1"},
        ),
    ],
)
def test_tools(tool: Tool, expected: dict[str, Any]) -> None:
    """Tools are flat; `strict` and `parameters` are always there."""
    assert expected == tool_of(tool)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "hi"}, {"type": "input_text", "text": "hi"}),
        (
            {"type": "image", "url": "https://x/y.png"},
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "auto"},
        ),
        (
            {"type": "image", "file_id": "file_1", "detail": "low"},
            {"type": "input_image", "file_id": "file_1", "detail": "low"},
        ),
        ({"type": "file", "file_id": "file_1"}, {"type": "input_file", "file_id": "file_1"}),
        ({"type": "file", "url": "https://x/y.pdf"}, {"type": "input_file", "file_url": "https://x/y.pdf"}),
        (
            {"type": "file", "data": "QQ==", "filename": "a.pdf"},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,QQ=="},
        ),
        (
            {"type": "file", "data": "data:text/plain;base64,QQ==", "filename": "a.txt"},
            {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,QQ=="},
        ),
    ],
)
def test_parts(part: Any, expected: dict[str, Any]) -> None:
    """Texts, images and files in the form of an input."""
    assert [expected] == parts(part)


def test_what_an_assistant_said() -> None:
    """It is output, and text only."""
    content = parts({"type": "text", "text": "hi"}, {"type": "image", "url": "https://x"}, role="assistant")

    assert content == [{"type": "output_text", "text": "hi", "annotations": []}]


def test_messages_that_say_nothing_are_left_out() -> None:
    """The provider refuses empty content."""
    assert input_of([text_message("assistant", ""), message()]) == []


def test_calls_and_outputs() -> None:
    """A call and its output under the provider's names."""
    items: list[Item] = [
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_output", "call_id": "call_1", "output": "1"},
    ]

    assert input_of(items) == [
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"temperature": 0.0, "top_p": 0.5, "parallel_tool_calls": False},
            {"temperature": 0.0, "top_p": 0.5, "parallel_tool_calls": False},
        ),
        ({"temperature": None}, {}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "function", "name": "f"}},
        ),
        ({"tool_choice": {"type": "file_search"}}, {"tool_choice": {"type": "file_search"}}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"response_format": "auto"}, {}),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}}},
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}}},
        ),
        (
            {"provider_args": {"truncation": "auto", "service_tier": "flex", "include": ["x"], "max_tool_calls": 3}},
            {"truncation": "auto", "service_tier": "flex", "include": ["x"], "max_tool_calls": 3},
        ),
        ({"provider_args": {"previous_response_id": "resp_other", "store": True, "input": "x"}}, {}),
        (
            {"provider_args": {"reasoning": {"summary": "auto"}}, "reasoning_effort": "high"},
            {"reasoning": {"summary": "auto", "effort": "high"}},
        ),
        (
            {"provider_args": {"text": {"verbosity": "low"}}, "response_format": {"type": "text"}},
            {"text": {"verbosity": "low", "format": {"type": "text"}}},
        ),
        ({"provider_args": {"text.verbosity": "low"}}, {"text": {"verbosity": "low"}}),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each option under the provider's name; `provider_args` only where it is allowed."""
    assert expected == body(**options)


@pytest.mark.parametrize(("choice", "later"), [("required", "auto"), ("none", "none"), ("auto", "auto")])
def test_a_forced_call_holds_for_the_first_step(choice: str, later: str) -> None:
    """Forced again after its result, a call would repeat until the step limit."""
    assert later == body_of(step(number=2, options={"tool_choice": choice}))["tool_choice"]


@pytest.mark.parametrize(("number", "tokens", "expected"), [(1, 5, 5), (1, 900, 900), (2, 5, 16), (2, 900, 900)])
def test_the_budget(number: int, tokens: int, expected: int) -> None:
    """The rest of a budget is never below what the provider accepts."""
    assert expected == body_of(step(number=number, max_tokens=tokens))["max_output_tokens"]


def test_the_size_of_a_request() -> None:
    """Texts, arguments and outputs count, pictures do not."""
    items = input_of(
        [
            message({"type": "text", "text": "four"}, {"type": "image", "url": "https://x"}),
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_output", "call_id": "c", "output": "123"},
        ]
    )

    assert size_of(step(instructions="brief"), items) == 4 + 2 + 3 + 5
