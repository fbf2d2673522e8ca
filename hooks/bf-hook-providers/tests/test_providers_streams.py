"""What every answer is, however its bytes come: the same events, or an error that says what became of it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bf_plugin import ProviderError
from bf_plugin.engines.port import StepDone, Text
from providers_support.script import Answer, Call

SCRIPT = ("Grüße, ", "\N{GRINNING FACE}\N{FAMILY}, ", '"quoted"\n\n', "data: 漢字")
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def whole(dialect):
    """Return a rich answer as one piece of bytes."""
    calls = (Call("call_1", "weather", {"place": "Köln"}), Call("call_2", "weather", {"place": "Ulm"}))
    return b"".join(dialect.answer(*SCRIPT, *calls).pieces)


def cut(body, places):
    """Return the bytes cut in these places."""
    edges = [0, *sorted(places), len(body)]
    return [body[begin:end] for begin, end in itertools.pairwise(edges) if end > begin]


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, Text))


def places_in(body, **sizes):
    return st.sets(st.integers(1, len(body) - 1), **sizes)


def test_bytes_may_be_cut_anywhere(bench, dialect):
    """However a network cuts an answer, the events are the same."""
    body = whole(dialect)
    expected = bench.play(dialect, Answer([body]))
    assert text_of(expected) == "".join(SCRIPT)
    assert [json.loads(call["arguments"]) for call in expected[-1].calls] == [{"place": "Köln"}, {"place": "Ulm"}]

    @quick
    @given(places_in(body, max_size=12))
    def check(places):
        assert bench.play(dialect, Answer(cut(body, places))) == expected

    check()
    assert bench.play(dialect, Answer(cut(body, range(1, len(body))))) == expected


def test_bytes_may_stop_anywhere(bench, dialect):
    """What is cut off is never taken for an answer, and what came before it is a part of the answer."""
    body = whole(dialect)
    expected = bench.play(dialect, Answer([body]))

    @quick
    @given(st.integers(0, len(body) - 1), st.booleans())
    def check(place, complete):
        *_, last = events = bench.play(dialect, Answer([body[:place]], complete=complete))
        assert text_of(expected).startswith(text_of(events))
        if isinstance(last, StepDone):
            assert (last.items, last.calls, last.finish_reason) == (expected[-1].items, expected[-1].calls, "stop")
        else:
            assert last.code in ("provider_lost_response", "provider_unreachable")

    check()


@pytest.mark.parametrize("cuts", [("a\ud83d", "\ude00b"), ("a", "\ud83d", "\ude00", "b")])
def test_characters_in_two_halves(bench, dialect, cuts):
    """A server that escapes may send one character in two events."""
    *texts, done = bench.play(dialect, dialect.answer(*cuts))
    assert (text_of(texts), done.content[0]["text"]["value"]) == ("a\N{GRINNING FACE}b", "a\N{GRINNING FACE}b")
    assert all(not any("\ud800" <= letter <= "\udfff" for letter in event.text) for event in texts)


def test_half_a_character(bench, dialect):
    """Where the other half never comes, a sign stands for it."""
    *texts, done = bench.play(dialect, dialect.answer("a\ud83d", "b\udc00", "c\ud83d"))
    assert text_of(texts) == "a\ufffdb\ufffdc\ufffd"
    assert done.items[0]["content"][0]["text"] == "a\ufffdb\ufffdc\ufffd"


def test_long_lines(bench, dialect):
    """Texts and arguments of any length come in one line, or in many."""
    long = "x" * 300_000
    *texts, done = bench.play(dialect, dialect.answer(long, Call("call_1", "note", {"text": long})))
    assert text_of(texts) == long
    assert done.calls[0]["arguments"] == f'{{"text": "{long}"}}'


def test_call_ids_are_unique(bench, dialect):
    """Some servers number the calls of each answer afresh, or not at all; in a thread, each needs its own id."""
    known = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    output = {"type": "function_output", "call_id": "call_1", "output": "fine"}
    calls = [Call(call_id, "weather", {}) for call_id in ("call_1", "call_2", "")]
    done = bench.play(dialect, dialect.answer(*calls), known, output)[-1]
    ids = [call["call_id"] for call in done.calls]
    assert len({"call_1", *ids}) == 4
    assert ids[1] == "call_2"
    assert done.items == done.calls


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_calls_of_an_answer_that_was_cut_off(bench, dialect, finish):
    """They may be incomplete: none of them is made."""
    words = {
        "anthropic": {"length": "max_tokens", "content_filter": "refusal"},
        "gemini": {"length": "MAX_TOKENS", "content_filter": "PROHIBITED_CONTENT"},
        "chat": {"length": "length", "content_filter": "content_filter"},
    }[dialect.name]
    answer = dialect.answer("So far", Call("call_1", "weather", {"place": "B"}), finish=words[finish])
    done = bench.play(dialect, answer)[-1]
    assert (done.finish_reason, done.calls, len(done.items)) == (finish, [], 1)


def test_an_answer_without_a_word(bench, dialect):
    """It is an answer."""
    (done,) = bench.play(dialect, dialect.answer())
    assert (done.items, done.content, done.finish_reason) == ([], [], "stop")
    assert done.usage.total_tokens == 32


@pytest.mark.parametrize(
    "body", [b"", b"\n\n", b": hello\n\n", b"<html>Bad gateway</html>", b"data: {\n\n", b"data: 7\n\n"]
)
def test_what_is_no_answer(bench, dialect, body):
    """Anything may come back with status 200, from a proxy for instance."""
    (error,) = bench.play(dialect, Answer([body]))
    assert isinstance(error, ProviderError)
    assert error.code in ("provider_lost_response", "provider_unreachable", "provider_error")


def test_nobody_there(bench, dialect):
    """A server that does not listen; its address is the operator's matter."""
    port = "http://127.0.0.1:9"
    (error,) = bench.play(dialect, dialect.answer(), section={"base_url": port})
    assert (error.code, error.status) == ("provider_unreachable", None)
    assert "127.0.0.1" not in str(error)


def test_usage_of_what_was_broken_off(bench, dialect):
    """What had been used when a run was stopped is in the stream's handle, as far as it was told, marked as a guess."""
    usage = bench.broken_off(dialect, dialect.begun("x" * 400))
    if dialect.name == "chat":  # its usage comes last
        assert usage is None
    else:
        assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (25, 100, True)


def test_a_stream_that_is_held(bench, dialect):
    """Nothing is read until it goes on, which is no silence of the provider's; then all of it comes."""
    before, events = bench.held(dialect, dialect.answer(*["word "] * 200), seconds=0.5, silence=0.25)
    assert before < 20
    assert text_of(events) == "word " * 200
    assert isinstance(events[-1], StepDone)
