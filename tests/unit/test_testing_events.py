"""The assertions on events: what is whole passes, and each way not to be fails with a reason."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.testing import assert_events, text_of

TYPES = ("threadInfo", "delta", "function_call", "error", "end")


def run_of(*parts: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a run: a type each, or the text of a delta behind a colon."""
    events: list[dict[str, Any]] = []
    offset = 0
    for seq, part in enumerate(parts, 1):
        event = {"type": part} if isinstance(part, str) else dict(part)
        if event["type"].startswith(":"):
            content = event["type"][1:]
            event = {"type": "delta", "content": content, "offset": offset}
            offset += len(content.encode("utf-16-le")) // 2
        events.append({"runId": "run_1", "threadId": "thread_1", "seq": seq, **event})
    return events


WHOLE = run_of("threadInfo", ":Hel", ":lo 😀", ":!", {"type": "end", "finish_reason": "stop"})


def test_a_whole_run_passes() -> None:
    """With and without expectations, and also where events came again."""
    assert_events(WHOLE)
    assert_events(WHOLE, "threadInfo delta+ end", text="Hello 😀!", finish_reason="stop")
    assert_events([*WHOLE[:3], *WHOLE[1:]], "threadInfo delta delta delta end", text="Hello 😀!")


def test_text_is_placed_by_offset() -> None:
    """As a page does, in whatever order and however often deltas come."""
    for events in itertools.permutations(WHOLE[1:4]):
        assert text_of([*events, events[0]]) == "Hello 😀!"


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([], "there are no events"),
        (WHOLE[1:], "seq 1 is missing"),
        ([*WHOLE[:2], *WHOLE[3:]], "seq 3 is missing"),
        (WHOLE[:-1], "the run has not ended"),
        ([*WHOLE, {**WHOLE[2], "seq": 6, "offset": 9}], "something follows the end"),
        ([*WHOLE, {**WHOLE[1], "content": "x"}], "seq 2 has two contents"),
        ([WHOLE[0], {**WHOLE[1], "offset": 1}, *WHOLE[2:]], "seq 2 stands at offset 1, and the text so far ends at 0"),
        ([*WHOLE[:4], {**WHOLE[4], "runId": "run_2"}], "these are events of 2 runs"),
        (run_of(":a", "threadInfo", "end"), "the first event is delta, not threadInfo"),
    ],
)
def test_what_is_not_whole_is_named(events: list[dict[str, Any]], problem: str) -> None:
    """A hole, a wrong offset, another run, no end: nobody has to ask for it."""
    with pytest.raises(AssertionError, match=re.escape(problem)):
        assert_events(events)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"text": "Hello"}, "the text is 'Hello 😀!', expected is 'Hello'"),
        ({"finish_reason": "length"}, "finish_reason is 'stop', expected is 'length'"),
        ({"error": "step_limit"}, "the error is None, expected is 'step_limit'"),
        ({"pattern": "threadInfo end"}, "seq 2 is delta, where 'threadInfo end' has end"),
        ({"pattern": "threadInfo delta? end"}, "seq 3 is delta, where 'threadInfo delta? end' has end"),
        (
            {"pattern": "threadInfo delta* error end"},
            "seq 5 is end, where 'threadInfo delta* error end' has delta or err",
        ),
        ({"pattern": "threadInfo delta+"}, "seq 5 is end, where 'threadInfo delta+' has delta"),
        ({"pattern": "threadInfo delta+ end error"}, "the events end in the middle of"),
    ],
)
def test_what_is_not_as_expected_is_shown(options: dict[str, Any], problem: str) -> None:
    """The failure says where, and lists the events."""
    with pytest.raises(AssertionError, match=re.escape(problem)) as caught:
        assert_events(WHOLE, **options)
    assert str(caught.value).endswith(
        "The events:\n    1  threadInfo    \n    2  delta         Hel\n    3  delta         lo 😀\n"
        "    4  delta         !\n    5  end           {'finish_reason': 'stop'}"
    )


def test_a_pattern_must_be_one() -> None:
    """A misspelt quantifier is an error of the test, not a failure."""
    with pytest.raises(ValueError, match="'delta!' is no event type"):
        assert_events(WHOLE, "threadInfo delta! end")


@given(
    st.lists(st.tuples(st.sampled_from(TYPES[1:4]), st.sampled_from(["", "+", "*", "?"])), max_size=5),
    st.lists(st.sampled_from(TYPES[1:4]), max_size=6),
)
def test_patterns_mean_what_regular_expressions_mean(words: list[tuple[str, str]], types: list[str]) -> None:
    """Same quantifiers, same verdict."""
    pattern = " ".join(["threadInfo", *(word + quantifier for word, quantifier in words), "end"])
    expression = "".join(f"(?:{word} ){quantifier}" for word, quantifier in words)
    expected = re.fullmatch(f"threadInfo {expression}end ", " ".join(["threadInfo", *types, "end", ""])) is not None
    parts: list[Any] = [
        {"type": "error", "error": {"code": "x"}} if kind == "error" else ":a" if kind == "delta" else kind
        for kind in types
    ]
    try:
        assert_events(run_of("threadInfo", *parts, "end"), pattern)
        passed = True
    except AssertionError:
        passed = False
    assert passed == expected
