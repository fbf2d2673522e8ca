"""What goes out after an interrupted turn pairs up, and nothing goes out twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.engines.openai.repair import (
    call_without_output,
    clean_items,
    output_without_call,
    reconcile,
    unknown_result,
)
from bf_plugin.items import Item, text_message


def call(call_id: str) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str, text: str = "1") -> Item:
    return {"type": "function_output", "call_id": call_id, "output": text}


def said(role: str, text: str, item_id: str = "msg_x") -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"id": item_id, "type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def stands(kind: str, call_id: str, item_id: str = "fc_x") -> dict[str, Any]:
    return {"id": item_id, "type": kind, "call_id": call_id}


USER, AGAIN = text_message("user", "hi"), text_message("user", "again")


@pytest.mark.parametrize(
    ("message", "call_id"),
    [
        ("No tool output found for function call call_x.", "call_x"),
        ("No tool output found for function call call_a-B.9", "call_a-B.9"),
        ("No tool call found for function call output with call_id call_x.", None),
        ("Something else", None),
    ],
)
def test_the_call_a_provider_misses_an_output_for(message: str, call_id: str | None) -> None:
    """Its id is in the message and nowhere else."""
    assert call_id == call_without_output(message)


def test_the_output_a_provider_knows_no_call_for() -> None:
    """The opposite complaint is told from the first."""
    assert output_without_call("No tool call found for function call output with call_id call_x.")
    assert not output_without_call("No tool output found for function call call_x.")


def test_pairs_stay() -> None:
    """Nothing is wrong, nothing changes."""
    items = [USER, call("a"), call("b"), output("b"), output("a"), AGAIN]

    assert items == clean_items(items)


def test_a_dangling_call_is_closed_where_it_stands() -> None:
    """The model is told that the result is unknown."""
    assert [call("a"), unknown_result("a"), USER] == clean_items([call("a"), USER])


def test_orphans_and_repetitions_are_dropped() -> None:
    """An output needs a call before it, and one is enough."""
    items = [output("x"), call("a"), call("a"), output("a", "1"), output("a", "2")]

    assert [call("a"), output("a", "1")] == clean_items(items)


def test_open_calls_are_answered_first() -> None:
    """Calls the provider has get their outputs, or a synthetic one at the front."""
    assert [unknown_result("b"), output("a"), USER] == clean_items([output("a"), USER], open_calls=["a", "b"])


@settings(max_examples=100, deadline=None)
@given(
    items=st.lists(
        st.one_of(st.sampled_from("abc").map(call), st.sampled_from("abc").map(output), st.just(USER), st.just(AGAIN)),
        max_size=12,
    ),
    open_calls=st.sets(st.sampled_from("abcd")),
)
def test_cleaned_items_are_always_consistent(items: list[Item], open_calls: set[str]) -> None:
    """One output per call and behind it, one call per output; messages untouched; cleaning twice is cleaning once."""
    cleaned = clean_items(items, open_calls=open_calls)

    waiting = set(open_calls)
    used = set(open_calls)
    for item in cleaned:
        if item["type"] == "function_call":
            assert item["call_id"] not in used
            used.add(item["call_id"])
            waiting.add(item["call_id"])
        elif item["type"] == "function_output":
            waiting.remove(item["call_id"])
    assert not waiting
    assert [item for item in items if item["type"] == "message"] == [
        item for item in cleaned if item["type"] == "message"
    ]
    assert cleaned == clean_items(cleaned, open_calls=open_calls)


TAIL = said("assistant", "earlier", "msg_tail")
EARLIER = [TAIL, said("user", "hi", "msg_0")]


@pytest.mark.parametrize(
    ("after_tail", "new", "missing"),
    [
        pytest.param([], [USER, AGAIN], [USER, AGAIN], id="nothing was committed"),
        pytest.param([said("user", "hi")], [USER, AGAIN], [AGAIN], id="the message was committed"),
        pytest.param(
            [said("user", "hi"), said("assistant", "Hello world")],
            [USER, text_message("assistant", "Hello"), AGAIN],
            [AGAIN],
            id="an answer cut off here was committed in full",
        ),
        pytest.param(
            [said("user", "hi")],
            [USER, text_message("assistant", "Hello"), AGAIN],
            [text_message("assistant", "Hello"), AGAIN],
            id="the partial answer was not committed",
        ),
        pytest.param([said("user", "hi")], [USER, USER], [USER], id="the same words said twice"),
        pytest.param(
            [said("user", "hi"), stands("function_call", "a")],
            [USER, call("a"), output("a"), AGAIN],
            [output("a"), AGAIN],
            id="a committed call lacks its output",
        ),
        pytest.param(
            [said("user", "hi"), stands("function_call", "a")],
            [USER, AGAIN],
            [unknown_result("a"), AGAIN],
            id="a call nobody saw",
        ),
        pytest.param(
            [said("user", "hi"), stands("function_call", "a"), stands("function_call_output", "a")],
            [USER, call("a"), output("a"), AGAIN],
            [AGAIN],
            id="call and output stand already",
        ),
        pytest.param(
            [said("user", "hi")],
            [USER, output("a"), AGAIN],
            [AGAIN],
            id="an output whose call was never committed",
        ),
        pytest.param(
            [],
            [USER, call("a"), output("a"), AGAIN],
            [USER, call("a"), output("a"), AGAIN],
            id="neither call nor output stand",
        ),
    ],
)
@pytest.mark.parametrize("tail", ["msg_tail", "msg_unknown", None])
def test_reconciling(after_tail: list[dict[str, Any]], new: list[Item], missing: list[Item], tail: str | None) -> None:
    """Only what the conversation lacks goes out, also where its last known item cannot be found."""
    newest = [*reversed(after_tail), *EARLIER]

    assert missing == reconcile(newest, new, tail=tail)


def test_reconciling_calls_of_the_last_good_turn() -> None:
    """Its open calls are answered once, with the real output if there is one."""
    newest = [stands("function_call", "b", "fc_tail"), stands("function_call", "a"), *EARLIER]

    assert [unknown_result("b"), output("a"), USER] == reconcile(
        newest, [output("a"), USER], tail="fc_tail", open_calls=["a", "b"]
    )
