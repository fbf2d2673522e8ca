"""Events: their text is cut and counted as JavaScript does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.gateway import events
from bf_plugin.runtime.text import well_formed
from bf_plugin.values import Usage

any_text = st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=40)
proper_text = st.text(max_size=60)


@given(proper_text)
def test_utf16_length_is_javascripts(text: str) -> None:
    """A length is the number of UTF-16 code units."""
    assert events.utf16_length(text) == len(text.encode("utf-16-le")) // 2


@given(any_text)
def test_well_formed_text_can_be_sent(text: str) -> None:
    """Whatever a provider wrote becomes text that UTF-8 can carry, and proper text stays as it is."""
    formed = well_formed(text)

    formed.encode()
    assert well_formed(formed) == formed


def test_surrogates_that_belong_together_are_joined() -> None:
    """A pair that arrived as two halves is one character, a lone half is replaced."""
    assert well_formed("\ud83d\ude00!\ud83d") == "😀!\ufffd"


@given(proper_text, st.integers(min_value=2, max_value=9))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    """Pieces join to the text, none is longer than the limit, and none is empty unless the text is."""
    parts = events.pieces(text, limit)

    assert "".join(parts) == text
    assert all(events.utf16_length(part) <= limit for part in parts)
    assert text == "" or all(parts)


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_events_are_found_in_every_style(style: str) -> None:
    """What a message carries can be read back, actions without an event left out."""
    event = {**events.delta("hi", 3), "seq": 2}
    actions = [events.named_action(event, "handle", style), {"action": "llmToolCall", "options": {"type": "x"}}]

    assert events.events_in(events.encode_message(actions)) == [event]


def test_end_has_the_published_usage() -> None:
    """`end` carries the three published counts and nothing else."""
    event = events.end("stop", Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3, estimated=True))

    assert event["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
