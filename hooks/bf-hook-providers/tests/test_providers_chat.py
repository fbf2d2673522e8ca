"""What servers that speak chat completions do differently from one another, each seen in one of them."""

from __future__ import annotations

import json

import pytest

from bf_plugin import ProviderError
from bf_plugin.items import text_message
from providers_support.script import Answer, sse

HI = text_message("user", "Hi")
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}


@pytest.fixture
def chat(dialects):
    return dialects["chat"]


@pytest.fixture
def chunks():
    """Return a function that makes an answer of deltas and of what finishes it."""

    def chunks(*deltas, finish="stop", done=True):
        sent = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        sent.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        return Answer([*(sse({"id": "c", **chunk}) for chunk in sent), *([b"data: [DONE]\n\n"] if done else [])])

    return chunks


def call(arguments="{}", **more):
    return {"tool_calls": [{"type": "function", **more, "function": {"name": "f", "arguments": arguments}}]}


def test_without_usage_it_is_a_guess(bench, chat, chunks):
    """A server that does not count: the numbers are marked."""
    done = bench.play(chat, chunks({"content": "x" * 40}), text_message("user", "y" * 80))[-1]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.estimated) == (20, 10, True)


def test_usage_of_nothing_is_no_usage(bench, chat, chunks):
    """Some servers send zeros."""
    zeros = sse({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}})
    done = bench.play(chat, Answer([*chunks({"content": "x" * 40}, done=False).pieces, zeros]))[-1]
    assert (done.usage.completion_tokens, done.usage.estimated) == (10, True)


def test_without_the_word_done(bench, chat, chunks):
    """An answer that has said how it ends is complete."""
    *_, done = bench.play(chat, chunks({"content": "Hello"}, done=False))
    assert done.content[0]["text"]["value"] == "Hello"


@pytest.mark.parametrize("numbers", [({}, {}), ({"index": 0}, {"index": 0}), ({"index": 1}, {"index": 7})])
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_whole_calls(bench, chat, chunks, numbers, finish):
    """Calls in one piece each, under no number, the same or any; some servers end such an answer with `stop`."""
    calls = [call('{"x": 1}', id="a", **numbers[0]), call('{"x": 2}', id="b", **numbers[1])]
    done = bench.play(chat, chunks(*calls, finish=finish))[-1]
    assert [(one["call_id"], one["arguments"]) for one in done.calls] == [("a", '{"x": 1}'), ("b", '{"x": 2}')]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_given_back_with_calls(bench, chat, chunks, field):
    """It is not shown; servers that keep it want it with the calls it led to."""
    answer = chunks({field: "Well, "}, {field: "yes"}, call(id="a", index=0), finish="tool_calls")
    (done,) = bench.play(chat, answer)
    output = {"type": "function_output", "call_id": "a", "output": "fine"}
    body = bench.asked(chat, HI, *done.items, output, state=done.state, number=2)
    assert body["messages"][1][field] == "Well, yes"


def test_a_refusal_is_shown(bench, chat, chunks):
    """As text, as OpenAI's are."""
    *texts, _ = bench.play(chat, chunks({"refusal": "I will not"}))
    assert [text.text for text in texts] == ["I will not"]


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_endings_that_are_failures(bench, chat, chunks, reason):
    """Some servers say with the ending that there was none."""
    *_, error = bench.play(chat, chunks({"content": "So far"}, finish=reason))
    assert isinstance(error, ProviderError)
    assert error.code == reason


@pytest.mark.parametrize(
    "body", [{"error": {"message": "No such"}}, {"error": "No such"}, {"detail": "No such"}, {"message": "No such"}]
)
def test_bodies_of_errors(bench, chat, body):
    """OpenAI's, Ollama's, FastAPI's and Mistral's."""
    (error,) = bench.play(chat, Answer([json.dumps(body).encode()], 404, {"Content-Type": "application/json"}))
    assert (error.status, str(error)) == (404, "No such")


def test_the_page_of_a_proxy(bench, chat):
    """It is nothing to show to a caller."""
    (error,) = bench.play(chat, Answer([b"<html><h1>nginx</h1></html>"], 502, {"Content-Type": "text/html"}))
    assert (error.status, str(error)) == (502, "the provider answered 502")


def test_how_the_server_is_told(bench, chat):
    """Every setting changes what is sent."""
    options = {"reasoning_effort": "low", "parallel_tool_calls": False}
    step = {"instructions": "Be brief", "options": options, "tools": [TOOL], "max_tokens": 7}
    plain = bench.asked(chat, HI, **step)
    without = ["parallel_tool_calls", "reasoning_effort", "stream_options", "strict"]
    section = {"without": without, "max_tokens_field": "max_completion_tokens", "developer_role": True}
    other = bench.asked(chat, HI, section=section, **step)
    assert {*plain} - {*other} == {"max_tokens", "parallel_tool_calls", "reasoning_effort", "stream_options"}
    assert (plain["max_tokens"], other["max_completion_tokens"]) == (7, 7)
    assert [body["messages"][0]["role"] for body in (plain, other)] == ["system", "developer"]
    assert ["strict" in body["tools"][0]["function"] for body in (plain, other)] == [True, False]


@pytest.mark.parametrize(
    ("section", "header", "sent"),
    [
        ({}, "authorization", "Bearer sk-secret-of-the-caller-0123456789"),
        ({"key_header": "api-key", "query": {"api-version": "v1"}}, "api-key", "sk-secret-of-the-caller-0123456789"),
        ({"headers": {"X-Team": "desk"}}, "x-team", "desk"),
    ],
)
def test_headers(bench, chat, section, header, sent):
    """The key goes where the server expects it, and nowhere else."""
    bench.asked(chat, HI, section=section)
    request = bench.server.request
    assert request.headers[header] == sent
    assert sum("sk-secret" in value for value in request.headers.values()) == 1
    assert request.query == ("api-version=v1" if "query" in section else "")
    assert request.headers["x-client-request-id"] == "request-1"


def test_short_ids(bench, chat):
    """Mistral takes nine letters and digits; the same id stays the same."""
    known = {"type": "function_call", "call_id": "call_0123456789", "name": "f", "arguments": "{}"}
    output = {"type": "function_output", "call_id": "call_0123456789", "output": "fine"}
    said, answered = bench.asked(chat, HI, known, output, section={"short_call_ids": True})["messages"][1:]
    assert len(said["tool_calls"][0]["id"]) == 9
    assert said["tool_calls"][0]["id"] == answered["tool_call_id"]
