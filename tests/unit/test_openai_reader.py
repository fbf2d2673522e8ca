"""Frames of one response become events and an end."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.engines.openai.decode import TextDelta
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.results import state_cut, usable
from bf_plugin.engines.port import Event, StepDone, Text
from bf_plugin.values import Usage


def reader(mode: str = "responses", **handle: Any) -> Reader:
    return Reader({"mode": mode, "background": True, **handle}, key="sk-secret", prompt=8)


def message(*texts: str, kind: str = "output_text", **more: Any) -> dict[str, Any]:
    field = "refusal" if kind == "refusal" else "text"
    return {"id": "msg_1", "type": "message", "content": [{"type": kind, field: text, **more} for text in texts]}


def function_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": "fc_1", "type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments}


def completed(*output: Any, kind: str = "response.completed", **response: Any) -> dict[str, Any]:
    return {"type": kind, "response": {"id": "resp_1", "status": "completed", "output": list(output), **response}}


def done(events: list[Event]) -> StepDone:
    assert isinstance(events[-1], StepDone)
    return events[-1]


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


def test_a_whole_response() -> None:
    """Deltas in order, then one end with items, content, state and usage."""
    subject = reader()

    events = subject.take(
        [
            {"type": "response.created", "response": {"id": "resp_1", "background": True}, "sequence_number": 0},
            TextDelta("Hel", 0, 0, 4),
            TextDelta("lo", 0, 0, 5),
            completed(message("Hello", annotations=[{"type": "url_citation"}]), usage=USAGE) | {"sequence_number": 9},
        ]
    )

    assert [Text("Hel", 4, (0, 0)), Text("lo", 5, (0, 0))] == events[:2]
    assert (
        StepDone(
            state={"response_id": "resp_1"},
            items=[{"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello"}]}],
            content=[{"type": "text", "text": {"value": "Hello", "annotations": [{"type": "url_citation"}]}}],
            calls=[],
            usage=Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5),
        )
        == events[2]
    )
    assert (subject.over, subject.cursor, subject.handle["response_id"]) == (True, 9, "resp_1")


def test_calls_in_order_and_in_the_state() -> None:
    """Items keep the output's order; the state knows which calls wait."""
    end = done(
        reader().take([completed(function_call("a"), message("Let me see"), {"type": "reasoning"}, function_call("b"))])
    )

    assert [call["call_id"] for call in end.calls] == ["a", "b"]
    assert [item["type"] for item in end.items] == ["function_call", "message", "function_call"]
    assert end.state == {"response_id": "resp_1", "calls": ["a", "b"]}


def test_items_are_collected_where_the_last_event_has_none() -> None:
    """A server may say everything while it streams and nothing at the end."""
    end = done(
        reader().take(
            [
                {"type": "response.output_item.done", "output_index": 1, "item": function_call("a")},
                {"type": "response.output_item.done", "output_index": 0, "item": message("Hi")},
                {"type": "response.completed", "response": {"id": "resp_1"}},
            ]
        )
    )

    assert [item["type"] for item in end.items] == ["message", "function_call"]


def test_deltas_alone_make_a_message() -> None:
    """No output anywhere: what was streamed is what was said."""
    end = done(reader().take([TextDelta("Hi"), {"type": "response.completed"}]))

    assert end.content == [{"type": "text", "text": {"value": "Hi"}}]
    assert end.items == [{"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}]}]


def test_a_server_without_deltas() -> None:
    """The text comes with whatever carries it first, once."""
    events = reader().take(
        [
            {"type": "response.output_text.done", "text": "Hi", "output_index": 0},
            {"type": "response.output_item.done", "output_index": 0, "item": message("Hi")},
            completed(message("Hi"), message(" there")),
        ]
    )

    assert said(events) == "Hi there"


def test_deltas_numbered_otherwise_than_the_output() -> None:
    """Nothing is said twice because an index differs."""
    events = reader().take([TextDelta("Hi"), completed({"type": "reasoning"}, message("Hi"))])

    assert said(events) == "Hi"
    assert done(events).content == [{"type": "text", "text": {"value": "Hi"}}]


def test_refusals_are_text() -> None:
    """They are shown and kept like any other text."""
    events = reader().take([completed(message("I cannot.", kind="refusal"))])

    assert said(events) == "I cannot."
    assert done(events).content == [{"type": "text", "text": {"value": "I cannot."}}]


@pytest.mark.parametrize(
    ("kind", "status", "reason", "expected"),
    [
        ("response.completed", "completed", None, "stop"),
        ("response.incomplete", "incomplete", "max_output_tokens", "length"),
        ("response.incomplete", "incomplete", "content_filter", "content_filter"),
        ("response.completed", "incomplete", "max_output_tokens", "length"),
        ("response.incomplete", None, None, "length"),
    ],
)
def test_finish_reasons(kind: str, status: str | None, reason: str | None, expected: str) -> None:
    """The status decides, wherever it stands."""
    events = reader().take([completed(message("Hi"), kind=kind, status=status, incomplete_details={"reason": reason})])

    assert expected == done(events).finish_reason


def test_calls_of_an_incomplete_response_are_not_made() -> None:
    """Their arguments may be cut off; the state knows that they wait for an output."""
    end = done(reader().take([completed(function_call("a", '{"x'), status="incomplete")]))

    assert (tuple(end.calls), tuple(end.items)) == ((), ())
    assert end.state == {"response_id": "resp_1", "calls": ["a"]}


def test_usage_is_estimated_where_there_is_none() -> None:
    """Four characters count as a token."""
    usage = done(reader().take([completed(message("Hello"))])).usage

    assert Usage(prompt_tokens=2, completion_tokens=2, total_tokens=4, estimated=True) == usage


@pytest.mark.parametrize(
    ("frame", "code", "text"),
    [
        (completed(kind="response.failed", status="failed", error={"code": "x", "message": "No"}), "x", "No"),
        (completed(kind="response.completed", status="failed", error=None), None, "the provider failed"),
        (completed(kind="response.failed", status="cancelled"), "provider_cancelled", "cancelled"),
        ({"type": "error", "code": "server_error", "message": "No"}, "server_error", "No"),
        ({"type": "error", "error": {"code": "x", "message": "key sk-secret"}}, "x", "key [key]"),
    ],
)
def test_failures_come_after_the_text_before_them(frame: dict[str, Any], code: str | None, text: str) -> None:
    """What was said before a failure still goes out, and a failure carries no key."""
    subject = reader()

    assert said(subject.take([TextDelta("Hi"), frame])) == "Hi"
    assert subject.failure is not None
    assert code == subject.failure.code
    assert text in subject.failure.message
    assert not subject.over


def test_a_poll_brings_the_tail() -> None:
    """Text, then the end, from whole response objects."""
    subject = reader(response_id="resp_1")
    subject.take([TextDelta("Hel", 0, 0, 4)])
    subject.reconnected()

    tail = subject.take_snapshot({"id": "resp_1", "status": "in_progress", "output": [message("Hello")]})
    same = subject.take_snapshot({"id": "resp_1", "status": "in_progress", "output": []})
    rest = subject.take_snapshot({"id": "resp_1", "status": "completed", "output": [message("Hello!")], "usage": USAGE})

    assert (said(tail), same, said(rest)) == ("lo", [], "!")
    assert done(rest).usage.total_tokens == 5


def test_a_body_that_is_no_response_is_a_failure() -> None:
    """A server may answer 200 with an error in it."""
    subject = reader()
    subject.take_snapshot({"error": {"message": "Overloaded", "code": "busy"}})

    assert subject.failure is not None
    assert subject.failure.code == "busy"


@pytest.mark.parametrize(("first", "text"), [(5, "lo"), (7, "")])
def test_the_first_number_of_a_new_connection_tells_of_gaps(first: int, text: str) -> None:
    """Right behind the cursor deltas are used, beyond a gap they are not."""
    subject = reader(response_id="resp_1")
    subject.take([TextDelta("Hel", 0, 0, 4)])
    subject.reconnected()

    events = subject.take([{"type": "response.content_part.done", "sequence_number": first}, TextDelta("lo", 0, 0, 8)])

    assert text == said(events)


def test_states_of_each_mode() -> None:
    """A conversation remembers its last item; we ourselves need nothing."""
    conversation = reader("conversation", conversation="conv_1").take([completed(message("Hi"))])

    assert done(conversation).state == {"conversation": "conv_1", "tail": "msg_1"}
    assert None is done(reader("local").take([completed(message("Hi"))])).state


def test_cutting() -> None:
    """A chain goes back to where it was; a conversation has to be looked at."""
    chained = {"response_id": "resp_0"}
    kept = {"conversation": "conv_1", "tail": "msg_1"}
    handle = {"mode": "conversation", "conversation": "conv_1", "response_id": "resp_1"}
    dirty = {"conversation": "conv_1", "dirty": True, "cut": "resp_1"}

    assert chained == state_cut(chained, {"mode": "responses", "response_id": "resp_1"})
    assert None is state_cut(None, None)
    assert {**kept, **dirty} == state_cut(kept, handle)
    assert dirty == state_cut(None, handle)
    assert {**kept, **dirty} == state_cut({**kept, **dirty}, None)


def test_states_of_another_mode_are_not_used() -> None:
    """After a change of mode a thread goes on from its history."""
    assert None is usable({"response_id": "resp_1"}, "conversation")
    assert None is usable({"conversation": "conv_1"}, "responses")
    assert None is usable({"response_id": "resp_1"}, "local")
    assert usable({"response_id": "resp_1"}, "responses") == {"response_id": "resp_1"}
