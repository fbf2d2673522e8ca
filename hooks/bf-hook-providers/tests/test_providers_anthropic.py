"""What is Anthropic's own: thoughts that are signed, tools that must be named, keys of another shape."""

from __future__ import annotations

import pytest

from bf_plugin import ProviderError
from bf_plugin.items import text_message
from providers_support.script import Answer, sse

HI = text_message("user", "Hi")
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def anthropic(dialects):
    return dialects["anthropic"]


@pytest.fixture
def events():
    """Return a function that makes an answer of events."""
    return lambda *events: Answer([sse(event, event["type"]) for event in events])


def block(index, begin, *deltas):
    yield {"type": "content_block_start", "index": index, "content_block": begin}
    yield from ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
    yield {"type": "content_block_stop", "index": index}


def message(*blocks, stop="end_turn"):
    """Return the events of a message; each block is what it begins with, and its deltas."""
    usage = {"input_tokens": 3, "output_tokens": 1}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude", "usage": usage}
    yield {"type": "message_start", "message": {**start, "stop_reason": None, "stop_sequence": None}}
    for index, (begin, *deltas) in enumerate(blocks):
        yield from block(index, begin, *deltas)
    yield {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}}
    yield {"type": "message_stop"}


def thinking(text="Well", signature="c2ln"):
    begin = {"type": "thinking", "thinking": "", "signature": ""}
    return (
        begin,
        {"type": "thinking_delta", "thinking": text},
        {"type": "signature_delta", "signature": signature},
    )


def said(text):
    return {"type": "text", "text": ""}, {"type": "text_delta", "text": text}


def called(call_id="toolu_1"):
    begin = {"type": "tool_use", "id": call_id, "name": "weather", "input": {}}
    return begin, {"type": "input_json_delta", "partial_json": '{"place": "Ulm"}'}


def test_thoughts_are_given_back_while_calls_are_answered(bench, anthropic, events):
    """They are signed: the API refuses the results of calls without them, or with any change to them."""
    redacted = {"type": "redacted_thinking", "data": "secret"}
    first = bench.play(
        anthropic, events(*message(thinking(), (redacted,), said("Let me see"), called(), stop="tool_use"))
    )
    done = first[-1]
    output = {"type": "function_output", "call_id": "toolu_1", "output": "fine"}

    body = bench.asked(anthropic, HI, *done.items, output, state=done.state, number=2, tools=[WEATHER])

    assert [event.text for event in first[:-1]] == ["Let me see"]
    assert body["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Well", "signature": "c2ln"},
        redacted,
        {"type": "text", "text": "Let me see"},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "Ulm"}},
    ]
    assert body["messages"][2]["content"][0] == {"type": "tool_result", "tool_use_id": "toolu_1", "content": "fine"}


def test_thoughts_of_several_rounds(bench, anthropic, events):
    """As long as a run goes on with calls, what was thought before each is kept; with its end it is let go."""
    one = bench.play(anthropic, events(*message(thinking("A"), called("toolu_1"), stop="tool_use")))[-1]
    answered = [HI, *one.items, {"type": "function_output", "call_id": "toolu_1", "output": "fine"}]
    answer = events(*message(thinking("B"), called("toolu_2"), stop="tool_use"))
    two = bench.play(anthropic, answer, *answered, state=one.state, number=2)[-1]
    answered += [*two.items, {"type": "function_output", "call_id": "toolu_2", "output": "so too"}]

    body = bench.asked(anthropic, *answered, state=two.state, number=3, tools=[WEATHER])
    last = bench.play(anthropic, anthropic.answer("Fine"), *answered, state=two.state, number=3)[-1]

    thoughts = [block for turn in body["messages"] for block in turn["content"] if block["type"] == "thinking"]
    assert [thought["thinking"] for thought in thoughts] == ["A", "B"]
    assert last.state is None


def test_what_is_new_is_passed_over(bench, anthropic, events):
    """Events, blocks and deltas that this version does not know change nothing; an unknown ending is an ending."""
    known = list(message(said("Hello"), ({"type": "novelty", "x": 1}, {"type": "novelty_delta", "x": 1}), stop="whim"))
    *texts, done = bench.play(anthropic, events(known[0], {"type": "novelty"}, *known[1:]))
    assert ("".join(text.text for text in texts), done.finish_reason) == ("Hello", "stop")


def test_tokens_of_the_cache_are_counted(bench, anthropic):
    """What was read from the cache, and written to it, has been asked too."""
    done = bench.play(anthropic, anthropic.answer("Hi"))[-1]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (25, 7, 32)


def test_a_thread_with_calls_names_their_tools(bench, anthropic):
    """Without tools such a thread is refused: those it once had stand in, not to be called."""
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    output = {"type": "function_output", "call_id": "call_1", "output": "fine"}
    body = bench.asked(anthropic, HI, call, output, HI)
    assert body["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert body["tool_choice"] == {"type": "none"}


def test_options(bench, anthropic):
    """What callers say in OpenAI's words, in Anthropic's."""
    options = {"temperature": 0.3, "parallel_tool_calls": False, "reasoning_effort": "high"}
    options |= {"provider_args": {"safety_identifier": "someone"}, "tool_choice": "required"}
    body = bench.asked(anthropic, HI, options=options, tools=[WEATHER])
    assert (body["temperature"], body["metadata"]) == (0.3, {"user_id": "someone"})
    assert body["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "high"})
    assert (body["max_tokens"], body["cache_control"]) == (32_000, {"type": "ephemeral"})
    assert bench.asked(anthropic, HI, max_tokens=7, section={"prompt_cache": False}).keys() == {
        "model",
        "messages",
        "max_tokens",
        "stream",
    }


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("authentication_error", 401), ("new", None)],
)
def test_errors_in_a_stream_have_their_status(bench, anthropic, events, kind, status):
    """They come with 200; what they are is in their type."""
    (error,) = bench.play(anthropic, events({"type": "error", "error": {"type": kind, "message": "No"}}))
    assert isinstance(error, ProviderError)
    assert (error.status, error.code) == (status, kind)
