from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.testing.provider.errors import ApiError, general, wrong_key
from bf_plugin.testing.provider.items import check_pairs, normalize
from bf_plugin.testing.provider.validation import check_create

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}


def refused(body: dict[str, Any]) -> tuple[int, str | None, str | None]:
    with pytest.raises(ApiError) as caught:
        check_create({"model": "m", "input": "x", **body})
    details = caught.value.body["error"]
    assert details["message"]
    assert details["type"] == "invalid_request_error"
    return caught.value.status, details["code"], details["param"]


BODIES: list[tuple[dict[str, Any], str | None, str]] = [
    ({"thread_id": "x"}, "unknown_parameter", "thread_id"),
    ({"max_completion_tokens": 5}, "unknown_parameter", "max_completion_tokens"),
    ({"stream": "yes"}, "invalid_type", "stream"),
    ({"temperature": True}, "invalid_type", "temperature"),
    ({"model": None}, "missing_required_parameter", "model"),
    ({"max_output_tokens": 1}, "integer_below_min_value", "max_output_tokens"),
    ({"temperature": 2.5}, "decimal_above_max_value", "temperature"),
    ({"truncation": "last"}, "invalid_value", "truncation"),
    ({"service_tier": "gold"}, "invalid_value", "service_tier"),
    ({"include": ["everything"]}, "invalid_value", "include[0]"),
    ({"metadata": {"a": 1}}, "invalid_type", "metadata.a"),
    ({"metadata": {str(number): "" for number in range(17)}}, "object_above_max_properties", "metadata"),
    ({"metadata": {"a": "x" * 513}}, "string_above_max_length", "metadata"),
    ({"background": True, "store": False}, "invalid_value", "background"),
    ({"stream_options": {"include_obfuscation": False}}, "invalid_value", "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": True}}, "unknown_parameter", "stream_options.include_usage"),
    (
        {"previous_response_id": "resp_1", "conversation": "conv_1"},
        "mutually_exclusive_parameters",
        "previous_response_id",
    ),
    ({"tools": [{"type": "function", "function": FUNCTION}]}, "missing_required_parameter", "tools[0].name"),
    ({"tools": [{"type": "function", "parameters": {}}]}, "missing_required_parameter", "tools[0].name"),
    ({"tools": [FUNCTION, {"type": "function", "name": "g"}]}, "missing_required_parameter", "tools[1].parameters"),
    ({"tools": [{**FUNCTION, "name": "no spaces"}]}, "invalid_value", "tools[0].name"),
    ({"tools": [{**FUNCTION, "function": {}}]}, "unknown_parameter", "tools[0].function"),
    ({"tools": [{**FUNCTION, "parameters": {"type": "array"}}]}, "invalid_function_parameters", "tools[0].parameters"),
    ({"tools": [{**FUNCTION, "strict": True}]}, "invalid_function_parameters", "tools[0].parameters"),
    ({"tools": [{"type": "retrieval"}]}, "invalid_value", "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "missing_required_parameter", "tools[0].type"),
    ({"tools": ["f"]}, "invalid_type", "tools[0]"),
    ({"tools": [{"type": "file_search"}]}, "missing_required_parameter", "tools[0].vector_store_ids"),
    ({"tools": [{"type": "code_interpreter"}]}, "missing_required_parameter", "tools[0].container"),
    ({"tool_choice": "any"}, "invalid_value", "tool_choice"),
    ({"tool_choice": "required"}, None, "tool_choice"),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "missing_required_parameter",
        "tool_choice.name",
    ),
    ({"tool_choice": {"name": "f"}}, "missing_required_parameter", "tool_choice.type"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "invalid_value", "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "missing_required_parameter", "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "json_schema": {}, "name": "x", "schema": {"a": 1}}}},
        "unknown_parameter",
        "text.format.json_schema",
    ),
]


@pytest.mark.parametrize(("body", "code", "param"), BODIES)
def test_create_refuses(body: dict[str, Any], code: str | None, param: str) -> None:
    """What OpenAI refuses is refused with its code and the name of the parameter."""
    assert refused(body) == (400, code, param)


def test_create_needs_input() -> None:
    """A create without input is refused."""
    with pytest.raises(ApiError, match="'input'"):
        check_create({"model": "m"})


def test_create_accepts_everything_at_once() -> None:
    """A body that uses every common parameter rightly passes, nulls included."""
    check_create(
        {
            "model": "m",
            "input": "x",
            "instructions": None,
            "background": True,
            "stream": True,
            "stream_options": {"include_obfuscation": False},
            "store": True,
            "previous_response_id": "resp_1",
            "tools": [
                FUNCTION,
                {**FUNCTION, "strict": True, "parameters": {"type": "object", "additionalProperties": False}},
                {"type": "file_search", "vector_store_ids": ["vs_1"]},
                {"type": "code_interpreter", "container": {"type": "auto", "file_ids": []}},
            ],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": True,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}, "verbosity": "low"},
            "reasoning": {"effort": "low"},
            "metadata": {"run": "r"},
            "max_output_tokens": 16,
            "temperature": 0,
            "top_p": 1.0,
            "truncation": "auto",
            "include": ["file_search_call.results"],
            "service_tier": "auto",
            "safety_identifier": "x",
            "prompt_cache_key": "y",
        }
    )


ITEMS: list[tuple[dict[str, Any], str, str]] = [
    ({"content": "x"}, "missing_required_parameter", "input[0].type"),
    ({"type": "message", "content": "x"}, "missing_required_parameter", "input[0].role"),
    ({"role": "tool", "content": "x"}, "invalid_value", "input[0].role"),
    ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "invalid_value", "input[0].content[0].type"),
    (
        {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]},
        "invalid_value",
        "input[0].content[0].type",
    ),
    ({"role": "user", "content": [{"type": "input_text"}]}, "missing_required_parameter", "input[0].content[0].text"),
    (
        {"role": "user", "content": [{"type": "input_image", "image_url": {"url": "x"}}]},
        "invalid_type",
        "input[0].content[0].image_url",
    ),
    (
        {"role": "user", "content": [{"type": "input_image"}]},
        "missing_required_parameter",
        "input[0].content[0].image_url",
    ),
    ({"role": "user", "content": "x", "attachments": []}, "unknown_parameter", "input[0].attachments"),
    ({"type": "tool_output", "call_id": "x"}, "invalid_value", "input[0].type"),
    ({"type": "function_call_output", "output": "x"}, "missing_required_parameter", "input[0].call_id"),
    ({"type": "function_call_output", "call_id": "c", "output": {}}, "invalid_type", "input[0].output"),
    (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": {}},
        "invalid_type",
        "input[0].arguments",
    ),
    (
        {"type": "function_call", "id": "call_1", "call_id": "c", "name": "f", "arguments": "{}"},
        "invalid_value",
        "input[0].id",
    ),
]


@pytest.mark.parametrize(("item", "code", "param"), ITEMS)
def test_items_are_refused(item: dict[str, Any], code: str, param: str) -> None:
    """Input items are checked down to the parts of their content."""
    with pytest.raises(ApiError) as caught:
        normalize([item])
    assert (caught.value.body["error"]["code"], caught.value.body["error"]["param"]) == (code, param)


def test_items_are_completed() -> None:
    """Items get ids, types and the content of a bare string."""
    user, answer = normalize([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}])
    assert user["content"] == [{"type": "input_text", "text": "hi"}]
    assert answer["content"] == [{"type": "output_text", "text": "ho", "annotations": [], "logprobs": []}]
    assert user["id"].startswith("msg_")
    assert (answer["type"], answer["status"]) == ("message", "completed")


def test_calls_and_outputs_must_pair() -> None:
    """Both opposite failures of interrupted turns have OpenAI's words, which clients parse."""
    made = {"type": "function_call", "call_id": "call_x"}
    output = {"type": "function_call_output", "call_id": "call_x"}
    check_pairs([made, output])
    with pytest.raises(ApiError, match=r"^No tool output found for function call call_x\.$"):
        check_pairs([made])
    message = r"^No tool call found for function call output with call_id call_x\.$"
    with pytest.raises(ApiError, match=message):
        check_pairs([output])
    with pytest.raises(ApiError, match=message):
        check_pairs([output, made])


def test_a_wrong_key_is_quoted_in_part() -> None:
    """Like the provider, the refusal quotes a part of the key, so that tests see who passes it on."""
    refusal = wrong_key("sk-abcdefghijcd")
    assert refusal.body["error"]["message"].startswith("Incorrect API key provided: sk-ab***cd.")
    assert (refusal.status, refusal.body["error"]["code"]) == (401, "invalid_api_key")


def test_rate_limits_say_when_to_come_back() -> None:
    """A 429 carries Retry-After when it is given."""
    assert general(429, retry_after=2).headers == {"Retry-After": "2"}
    assert general(503).headers == {}
