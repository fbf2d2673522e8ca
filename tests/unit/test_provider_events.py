from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent

from bf_plugin.testing.gate import Gate
from bf_plugin.testing.provider.events import Composer
from bf_plugin.testing.provider.faults import SWITCHES, Fault
from bf_plugin.testing.provider.items import normalize
from bf_plugin.testing.provider.script import (
    Answer,
    Pause,
    Reply,
    as_reply,
    call,
    error,
    event,
    failed,
    incomplete,
    pause,
    reasoning,
    refusal,
    reply,
    text,
    words,
)
from bf_plugin.testing.provider.state import ResponseRecord


def sdk_events() -> dict[str, Any]:
    classes = get_args(get_args(ResponseStreamEvent)[0])
    return {get_args(cls.model_fields["type"].annotation)[0]: cls for cls in classes}


SDK_EVENTS = sdk_events()
CITATION = {"type": "url_citation", "url": "https://example.com", "title": "x", "start_index": 0, "end_index": 1}


def record(*quirks: str, **body: Any) -> ResponseRecord:
    faults = {name: Fault(name, SWITCHES[name].arguments) for name in quirks}
    made = ResponseRecord(
        body={"model": "m", **body},
        owner="",
        history=(),
        input=normalize("hello"),
        conversation_id=None,
        quirks=faults,
    )
    made.body.setdefault("stream_options", {"include_obfuscation": False})  # type: ignore[attr-defined]
    return made


def frames(made: ResponseRecord, answer: Answer) -> Iterator[bytes]:
    composer, said = Composer(made), as_reply(answer)
    yield from composer.opening()
    yield from (step for step in composer.content(said) if isinstance(step, bytes))
    yield composer.ending(said)


def events(made: ResponseRecord, answer: Answer) -> list[dict[str, Any]]:
    found = []
    for frame in frames(made, answer):
        first, second, blank, rest = frame.decode().split("\n")
        payload = json.loads(second.removeprefix("data: "))
        assert (first, blank, rest) == (f"event: {payload['type']}", "", "")
        found.append(payload)
    return found


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [payload["type"].removeprefix("response.") for payload in found]


def test_text_comes_in_the_order_of_the_api() -> None:
    """A message is opened, grows, and is closed from the inside out."""
    found = events(record(), text("a", "b", annotations=[CITATION]))
    assert kinds(found) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.annotation.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [payload["sequence_number"] for payload in found] == list(range(len(found)))
    assert found[-1]["response"]["output"][0]["content"][0]["annotations"] == [CITATION]


def test_background_responses_are_queued_first() -> None:
    """A background response says that it waits before it starts."""
    found = events(record(background=True), "x")
    assert [payload["response"]["status"] for payload in found[:3]] == ["queued", "queued", "in_progress"]
    assert kinds(found)[:3] == ["created", "queued", "in_progress"]


def test_parallel_calls_have_an_item_each() -> None:
    """Each call is an item with its own call id; the arguments events name only the item."""
    found = events(record(), [call("a", {"x": "ü" * 20}, call_id="call_1"), call("b")])
    done = [payload["item"] for payload in found if payload["type"] == "response.output_item.done"]
    assert (done[0]["call_id"], done[0]["name"]) == ("call_1", "a")
    assert done[1]["call_id"].startswith("call_")
    assert json.loads(done[0]["arguments"]) == {"x": "ü" * 20}
    deltas = [payload for payload in found if payload["type"].endswith("arguments.delta")]
    assert "".join(delta["delta"] for delta in deltas if delta["output_index"] == 0) == done[0]["arguments"]
    assert all("call_id" not in delta for delta in deltas)


EVERYTHING: list[Reply] = [
    reply(reasoning("hm", "m"), text("a", "😀", annotations=[CITATION]), call("f", {"a": 1}), call("g")),
    reply(refusal("no", "pe")),
    reply("cut", incomplete()),
    reply("cut", incomplete("content_filter")),
    reply("bad", failed()),
    reply("bad", error()),
]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("answer", EVERYTHING)
def test_events_have_the_shapes_of_the_sdk(answer: Reply, background: bool) -> None:
    """Every event and every response in one validates against the SDK's types."""
    made = record(
        background=background,
        tools=[{"type": "function", "name": "f", "parameters": {}, "strict": False}],
        metadata={"run": "1"},
        text={"format": {"type": "json_object"}},
    )
    for payload in events(made, answer):
        SDK_EVENTS[payload["type"]].model_validate(payload, strict=True)
    Response.model_validate(json.loads(json.dumps(made.snapshot())))


@pytest.mark.parametrize(
    ("ending", "kind", "status"),
    [
        (incomplete("content_filter"), "response.incomplete", "incomplete"),
        (failed("boom"), "response.failed", "failed"),
        (error("boom"), "error", "failed"),
    ],
)
def test_other_endings(ending: Any, kind: str, status: str) -> None:
    """A response can end in each of the documented ways."""
    made = record()
    last = events(made, ["so far", ending])[-1]
    assert (last["type"], made.status, made.text) == (kind, status, "so far")


def test_what_ends_incomplete_has_an_incomplete_item() -> None:
    """The item that was being written when the budget ended says so."""
    made = record()
    events(made, ["done", text("cut"), incomplete()])
    assert [item["status"] for item in made.output] == ["completed", "incomplete"]


def test_error_events_are_flat_or_nested() -> None:
    """Both shapes of the error event carry code and message."""
    flat = events(record(), error("m", code="c"))[-1]
    nested = events(record(), error("m", code="c", nested=True))[-1]
    assert (flat["code"], flat["message"], flat["param"]) == ("c", "m", None)
    assert (nested["error"]["code"], nested["error"]["message"], "code" in nested) == ("c", "m", False)


def test_foreign_events_take_a_number() -> None:
    """An unknown event between two deltas counts like any other."""
    found = events(record(), text("a", event("keepalive", x=1), "b"))
    assert found[5] == {"type": "keepalive", "sequence_number": 5, "x": 1}
    assert found[6]["sequence_number"] == 6


def test_deltas_are_obfuscated_unless_refused() -> None:
    """As with OpenAI, random padding is there unless `stream_options` turn it off."""
    padded = events(record(stream_options=None), "x")
    assert "obfuscation" in next(payload for payload in padded if payload["type"].endswith("text.delta"))
    plain = events(record(), "x")
    assert not [payload for payload in plain if "obfuscation" in payload]


def test_usage_is_scripted_or_counted() -> None:
    """Usage is what the script says, else an estimate, always summed up."""
    scripted = events(record(), reply("x", usage=(3, 4)))[-1]["response"]["usage"]
    counted = events(record(), "twelve chars")[-1]["response"]["usage"]
    assert (scripted["input_tokens"], scripted["output_tokens"], scripted["total_tokens"]) == (3, 4, 7)
    assert (counted["input_tokens"], counted["output_tokens"], counted["total_tokens"]) == (1, 3, 4)


def test_a_snapshot_shows_text_in_the_making() -> None:
    """Polling a response in progress shows what there is so far."""
    made = record()
    steps = frames(made, text("a", "b"))
    for _ in range(5):
        next(steps)
    assert made.snapshot()["output"][0]["content"][0]["text"] == "a"
    assert (made.status, made.text) == ("in_progress", "a")


def test_quirk_no_sequence_numbers() -> None:
    """Some servers do not number events."""
    assert not [p for p in events(record("no_sequence_numbers"), ["x", call("f")]) if "sequence_number" in p]


def test_quirk_sequence_from_one() -> None:
    """Some servers count from one."""
    found = events(record("sequence_from_one"), "x")
    assert [payload["sequence_number"] for payload in found] == list(range(1, len(found) + 1))


def test_quirk_no_text_done() -> None:
    """Some servers never say that a text is done."""
    found = kinds(events(record("no_text_done"), "x"))
    assert found[-3:] == ["output_text.delta", "output_item.done", "completed"]


def test_quirk_no_created() -> None:
    """Some servers start with the first item."""
    assert kinds(events(record("no_created"), "x"))[0] == "output_item.added"


def test_quirk_incomplete_completed() -> None:
    """Some servers say completed and mean incomplete."""
    last = events(record("incomplete_completed"), "x")[-1]
    assert (last["type"], last["response"]["status"]) == ("response.completed", "incomplete")


def test_quirk_no_usage() -> None:
    """Some servers count nothing."""
    assert events(record("no_usage"), "x")[-1]["response"]["usage"] is None


def test_quirk_null_conversation() -> None:
    """Some servers say null where OpenAI says nothing."""
    assert "conversation" not in record().snapshot()
    assert record("null_conversation").snapshot()["conversation"] is None


def test_quirk_output_when_done() -> None:
    """Some servers show no output until the response is over."""
    made = record("output_when_done")
    steps = frames(made, text("a", "b"))
    for _ in range(5):
        next(steps)
    assert made.snapshot()["output"] == []
    list(steps)
    assert made.snapshot()["output"][0]["content"][0]["text"] == "ab"


def test_quirk_lone_surrogates() -> None:
    """Halves of a character come in two deltas and are whole in the text."""
    made = record("lone_surrogates")
    found = events(made, text("a😀b"))
    deltas = [payload["delta"] for payload in found if payload["type"].endswith("text.delta")]
    assert deltas == ["a\ud83d", "\ude00b"]
    assert made.text == found[-1]["response"]["output"][0]["content"][0]["text"] == "a😀b"


def test_a_surrogate_that_stays_alone_is_an_escape() -> None:
    """A half without its other half is sent as JSON can say it."""
    made = record()
    assert events(made, text("a\ud83d"))[4]["delta"] == "a\ud83d"
    assert made.text == "a\ud83d"


@settings(max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=8), max_size=6), st.booleans())
def test_text_is_the_sum_of_its_deltas(chunks: list[str], halved: bool) -> None:
    """Whatever the chunks: numbers have no gaps and the text is what a JSON reader makes of the deltas."""
    made = record(*(["lone_surrogates"] if halved else []))
    found = events(made, text(*chunks))
    deltas = "".join(payload["delta"] for payload in found if payload["type"].endswith("text.delta"))
    assert [payload["sequence_number"] for payload in found] == list(range(len(found)))
    assert made.text == deltas.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@given(st.text())
def test_words_lose_nothing(sentence: str) -> None:
    """Words with their white space add up to the sentence."""
    chunks = words(sentence).chunks
    assert "".join(chunk for chunk in chunks if isinstance(chunk, str)) == sentence


def test_nothing_follows_an_ending() -> None:
    """A script that goes on after its end is refused."""
    with pytest.raises(ValueError, match="end of a response"):
        reply(failed(), "more")


def test_gates_and_pauses_are_steps() -> None:
    """What is waited for comes out where it was put."""
    gate, composer = Gate(), Composer(record())
    steps = [step for step in composer.content(reply(text("a", gate, "b"), pause(1))) if not isinstance(step, bytes)]
    assert steps == [gate, pause(1)]


def test_a_pace_pauses_before_each_delta() -> None:
    """`delay` makes a pause before each delta and nowhere else."""
    steps = list(Composer(record()).content(reply(text("a", "b"), delay=0.5)))
    assert [position for position, step in enumerate(steps) if isinstance(step, Pause)] == [2, 4]
