"""What is Gemini's own: signatures on parts, calls without ids, prompts that are blocked, failures of its own."""

from __future__ import annotations

import pytest

from bf_plugin import ProviderError
from bf_plugin.items import text_message
from providers_support.script import Answer, sse

HI = text_message("user", "Hi")
SIGNATURE = "c2lnbmVkLWJ5LWdlbWluaQ=="


@pytest.fixture
def gemini(dialects):
    return dialects["gemini"]


@pytest.fixture
def chunks():
    """Return a function that makes an answer of responses."""
    return lambda *chunks: Answer([sse(chunk) for chunk in chunks])


def candidate(*parts, finish=None, **more):
    found = {"content": {"role": "model", "parts": [*parts]}, "index": 0}
    return {"candidates": [{**found, **({"finishReason": finish} if finish else {}), **more}], "responseId": "r"}


def test_signatures_are_given_back_while_calls_are_answered(bench, gemini, chunks):
    """On the part they came with, text or call; the results of calls bear the ids the API gave, where it did."""
    answer = chunks(
        candidate({"text": "Hm", "thought": True}, {"text": "Let me "}, {"text": "see"}),
        candidate({"functionCall": {"id": "a1", "name": "f", "args": {"x": 1}}, "thoughtSignature": SIGNATURE}),
        candidate({"functionCall": {"name": "g", "args": {}}}),
        candidate({"text": "", "thoughtSignature": SIGNATURE}, finish="STOP"),
    )
    *texts, done = bench.play(gemini, answer)
    ids = [call["call_id"] for call in done.calls]
    outputs = [{"type": "function_output", "call_id": call_id, "output": "fine"} for call_id in ids]

    body = bench.asked(gemini, HI, *done.items, *outputs, state=done.state, number=2)

    assert ("".join(text.text for text in texts), ids[0]) == ("Let me see", "a1")
    assert body["contents"][1]["parts"] == [
        {"text": "Let me see"},
        {"functionCall": {"id": "a1", "name": "f", "args": {"x": 1}}, "thoughtSignature": SIGNATURE},
        {"functionCall": {"name": "g", "args": {}}},
        {"text": "", "thoughtSignature": SIGNATURE},
    ]
    assert body["contents"][2]["parts"] == [
        {"functionResponse": {"id": "a1", "name": "f", "response": {"output": "fine"}}},
        {"functionResponse": {"name": "g", "response": {"output": "fine"}}},
    ]


def test_a_blocked_prompt(bench, gemini, chunks):
    """It has no candidates; the run ends as filtered, not as a failure."""
    (done,) = bench.play(gemini, chunks({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}))
    assert (done.finish_reason, done.items) == ("content_filter", [])


@pytest.mark.filterwarnings("ignore:SOMETHING_NEW:UserWarning")  # Google's SDK remarks what it does not know
@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "SOMETHING_NEW"])
def test_an_answer_that_failed(bench, gemini, chunks, reason):
    """The model lost its way: a failure that says so, also where the reason is new."""
    error = bench.play(gemini, chunks(candidate({"text": "a"}), candidate(finish=reason)))[-1]
    assert isinstance(error, ProviderError)
    assert (error.code, str(error)) == (reason.lower(), f"the model ended with {reason}")


def test_a_bad_key_is_answered_with_400(bench, gemini):
    """It is a refused key all the same."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    error = {"code": 400, "message": "API key not valid: AIza-secret", "status": "INVALID_ARGUMENT", "details": details}
    body = sse({"error": error}).removeprefix(b"data: ").strip()
    (found,) = bench.play(gemini, Answer([body], 400, {"Content-Type": "application/json"}))
    assert (found.status, "AIza-secret" in str(found)) == (401, False)


def test_when_to_come_again_is_in_a_detail(bench, gemini):
    """Google says it in RetryInfo."""
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    error = {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": details}
    body = sse({"error": error}).removeprefix(b"data: ").strip()
    (found,) = bench.play(gemini, Answer([body], 429, {"Content-Type": "application/json"}))
    assert (found.status, found.retry_after, found.code) == (429, 17.5, "RESOURCE_EXHAUSTED")


def test_options(bench, gemini):
    """What callers say in OpenAI's words, in Google's."""
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
    options = {"temperature": 0.3, "reasoning_effort": "high", "response_format": {"type": "json_object"}}
    body = bench.asked(gemini, HI, options=options, tools=[tool], max_tokens=7)
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    config = body["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"], config["responseMimeType"]) == (
        0.3,
        7,
        "application/json",
    )
    assert list(config["thinkingConfig"].values()) == ["HIGH"]
    budget = bench.asked(gemini, HI, options=options, section={"reasoning": "budget"})["generationConfig"]
    assert list(budget["thinkingConfig"].values()) == [24_576]
