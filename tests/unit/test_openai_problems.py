"""Errors keep what helps and lose what is secret."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.engines.openai.problems import Problem, Quirks, event_problem, problem_of, scrub

KEY = "sk-proj-abcdefghijklmnop"


class Answered(Exception):
    """Looks like the SDK's APIStatusError."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"Bearer {KEY}")
        self.status_code = status
        self.body = body
        self.response = type("Response", (), {"headers": headers or {}})()


def refusal(message: str, *, status: int | None = 400, param: str | None = None) -> Problem:
    problem = Problem(message, status=status)
    problem.param = param
    return problem


def test_an_answer_keeps_message_code_and_parameter() -> None:
    """Callers get the provider's own words for their own mistakes."""
    problem = problem_of(Answered(400, {"message": "Bad tool.", "code": "bad", "param": "tools"}), KEY)

    assert (problem.message, problem.status, problem.code, problem.param) == ("Bad tool.", 400, "bad", "tools")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_quoted(status: int) -> None:
    """The provider quotes parts of the key, so its words are not used at all."""
    problem = problem_of(Answered(status, {"message": f"Incorrect API key provided: {KEY[:6]}."}), KEY)

    assert "sk-" not in problem.message
    assert status == problem.status


@pytest.mark.parametrize("message", [f"key {KEY} is odd", "key sk-pr***op is odd", "key sk-proj-********mnop is odd"])
def test_keys_whole_or_masked_are_removed(message: str) -> None:
    """No key and no part of a key survives."""
    assert scrub(message, KEY) == "key [key] is odd"


def test_bodies_without_a_code() -> None:
    """Independent servers answer `detail`, or nothing readable."""
    assert problem_of(Answered(400, {"detail": "Bad"}), KEY).message == "Bad"
    assert problem_of(Answered(502, "<html>"), KEY).message == "the provider answered 502"
    assert problem_of(Answered(400, [{"error": {"message": "Bad role"}}]), KEY).message == "Bad role"
    assert problem_of(Answered(400, []), KEY).message == "the provider answered 400"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Mon, 23 Nov"}, None),
        ({"retry-after": "Mon, 23 Nov 2020 10:00:00 GMT"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after-ms": "soon", "retry-after": "1.5"}, 1.5),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, whichever header tells them."""
    assert seconds == problem_of(Answered(429, {}, headers), KEY).retry_after


def test_an_exception_without_answer_tells_nothing_of_its_own() -> None:
    """Its text may hold request headers."""
    problem = problem_of(ValueError(f"Illegal header value b'Bearer {KEY}'"), KEY)

    assert KEY not in problem.message
    assert None is problem.status


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "message": "Slow down", "code": "rate_limit_exceeded"},
        {"type": "error", "error": {"message": "Slow down", "code": "rate_limit_exceeded"}},
    ],
)
def test_both_shapes_of_an_error_event(event: dict[str, Any]) -> None:
    """Flat and nested mean the same."""
    problem = event_problem(event, KEY)

    assert (problem.message, problem.code, problem.status) == ("Slow down", "rate_limit_exceeded", 429)


def test_an_error_event_that_says_nothing() -> None:
    """There is always a message."""
    assert event_problem({"type": "error", "error": {}}, KEY).message == "the provider failed"


BODY = {"background": True, "stream": True, "stream_options": {}}


@pytest.mark.parametrize(
    ("problem", "without"),
    [
        (refusal("Unknown parameter: 'background'.", param="background"), "background"),
        (refusal("Unknown parameter.", param="background"), "background"),
        (refusal("background cannot be combined with stream."), "background"),
        (refusal("background and stream exclude each other", param="stream"), "background"),
        (refusal("Unknown parameter: 'stream_options.include_obfuscation'."), "stream_options"),
        (refusal("[{'loc': ['body', 'stream_options']}]", status=422), "stream_options"),
    ],
)
def test_a_refused_parameter_is_left_out_from_then_on(problem: Problem, without: str) -> None:
    """Once per parameter, for this server only."""
    quirks = Quirks("auto")

    assert quirks.learn("https://a", BODY, problem)
    body = quirks.parameters("https://a", stored=True)
    assert without not in body
    assert not quirks.learn("https://a", body, problem)
    assert without in quirks.parameters("https://b", stored=True)


@pytest.mark.parametrize(
    "problem",
    [
        refusal("Invalid model."),
        refusal("The background of your image is odd.", param="input[0]"),
        refusal("background", status=429),
        refusal("background", status=None),
    ],
)
def test_other_refusals_teach_nothing(problem: Problem) -> None:
    """A word in a message about something else is no reason to ask again."""
    assert not Quirks("auto").learn(None, BODY, problem)


@pytest.mark.parametrize(
    ("setting", "stored", "background"), [("on", True, True), ("auto", False, None), ("off", True, None)]
)
def test_background_as_set(setting: Any, stored: bool, background: bool | None) -> None:
    """Off never asks; a response that is not stored has none."""
    assert background is Quirks(setting).parameters(None, stored=stored).get("background")


def test_background_that_is_insisted_on() -> None:
    """On means that the refusal is shown, not worked around."""
    assert not Quirks("on").learn(None, BODY, refusal("no background here"))
